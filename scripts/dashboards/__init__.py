"""Grafana's dashboards, as they are generated into deploy/grafana/dashboards by `make dashboards`."""
