"""Self-supervised losses as pure functions of embeddings: any float dtype, any device, no state.

Where authors differ, the form used here is named; reference values are in `tests/objectives`.
"""

from edgessl.objectives.functional.clustering import cross_view_entropy, minibatch_kmeans, sinkhorn, swav_loss
from edgessl.objectives.functional.contrastive import dcl_loss, in_batch_nce_loss, info_nce_loss, nt_xent_loss
from edgessl.objectives.functional.diagnostics import alignment, effective_rank, embedding_std, uniformity
from edgessl.objectives.functional.distillation import dino_loss, koleo_loss, negative_cosine_loss
from edgessl.objectives.functional.redundancy import barlow_twins_loss, tico_loss, vicreg_loss
from edgessl.objectives.functional.rows import normalize, require_rows

__all__ = [
    "alignment",
    "barlow_twins_loss",
    "cross_view_entropy",
    "dcl_loss",
    "dino_loss",
    "effective_rank",
    "embedding_std",
    "in_batch_nce_loss",
    "info_nce_loss",
    "koleo_loss",
    "minibatch_kmeans",
    "negative_cosine_loss",
    "normalize",
    "nt_xent_loss",
    "require_rows",
    "sinkhorn",
    "swav_loss",
    "tico_loss",
    "uniformity",
    "vicreg_loss",
]
