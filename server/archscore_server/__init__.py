"""The archscore server: front end, scheduler, worker pool and engine."""
