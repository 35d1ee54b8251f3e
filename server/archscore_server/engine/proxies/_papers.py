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
JACOB_COV = "Mellor et al., Neural Architecture Search without Training, first version, arXiv:2006.04647v1, 2020"
EPE_NAS = (
    "Lopes et al., EPE-NAS: Efficient Performance Estimation Without Training for Neural Architecture Search, "
    "ICANN 2021"
)
ZICO = "Li et al., ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients, ICLR 2023"
ZEN = "Lin et al., Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition, ICCV 2021"
TE_NAS = (
    "Chen et al., Neural Architecture Search on ImageNet in Four GPU Hours: A Theoretically Inspired Perspective, "
    "ICLR 2021"
)
