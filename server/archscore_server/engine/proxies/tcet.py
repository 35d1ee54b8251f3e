"""T-CET: trainability times capacity, each layer with itself (Xiang et al., AutoML 2023)."""

from archscore_server.engine.proxies import _papers
from archscore_server.engine.proxies._registry import proxy
from archscore_server.engine.proxies.saliency import log_snr, snr
from archscore_server.engine.statistics import Array, Saliency, over_layers


@proxy(formula="sum over layers of SNR_l * log det K_l, S = |w * g|, eval-mode codes", paper=_papers.TCET)
def tcet(snip: Saliency, logdet_eval: Array) -> Array:
    """Layer-wise product of SSNR and layer-wise NASWOT: what the paper's NAS-Bench-201 table uses."""
    return over_layers(snr(snip) * logdet_eval)


@proxy(formula="sum over layers of log(SNR_l) * log det K_l, S = |w * g|, eval-mode codes", paper=_papers.TCET)
def tcet_log(snip: Saliency, logdet_eval: Array) -> Array:
    """T-CET with the logarithm of each layer's ratio: what the paper's ZenNAS search uses."""
    return over_layers(log_snr(snip) * logdet_eval)


@proxy(formula="sum over layers of SNR_l * log det K_l, S = |g|, eval-mode codes", paper=_papers.TCET)
def tcet_grad(grad: Saliency, logdet_eval: Array) -> Array:
    """T-CET of the absolute gradient."""
    return over_layers(snr(grad) * logdet_eval)


@proxy(
    formula="sum over layers of SNR_l * log det K_l, S = SynFlow's, eval-mode codes",
    paper=_papers.TCET,
    uses_labels=False,
)
def tcet_synflow(synflow: Saliency, logdet_eval: Array) -> Array:
    """T-CET of the SynFlow saliency."""
    return over_layers(snr(synflow) * logdet_eval)


@proxy(formula="sum over layers of SNR_l * log det K_l, S = |w * g|, train-mode codes", paper=_papers.TCET)
def tcet_train_codes(snip: Saliency, logdet_train: Array) -> Array:
    """T-CET with codes from the train-mode pass: one pass instead of two."""
    return over_layers(snr(snip) * logdet_train)


@proxy(formula="sum over layers of SNR_l * log det K_l, S = |w * Hg|, eval-mode codes", paper=_papers.TCET)
def tcet_grasp(grasp: Saliency, logdet_eval: Array) -> Array:
    """T-CET of the absolute GraSP saliency."""
    return over_layers(snr(grasp) * logdet_eval)
