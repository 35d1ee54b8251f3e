"""The papers that proxies come from."""

SNIP = "Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019"
GRASP = "Wang et al., Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020"
SYNFLOW = (
    "Tanaka et al., Pruning neural networks without any data by iteratively conserving synaptic flow, NeurIPS 2020"
)
ZERO_COST = "Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021"
FISHER = "Turner et al., BlockSwap: Fisher-guided Block Substitution for Network Compression on a Budget, ICLR 2020"
NASWOT = "Mellor et al., Neural Architecture Search without Training, ICML 2021"
TCET = "Xiang et al., Exploiting Network Compressibility and Topology in Zero-Cost NAS, AutoML 2023"
