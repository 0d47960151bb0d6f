"""Self-supervised losses as pure functions of embeddings: any float dtype, any device, no state.

Where authors differ, the form used here is named; reference values are in `tests/objectives`.
"""

from edgessl.objectives.functional.clustering import cross_view_entropy, minibatch_kmeans, sinkhorn, swav_loss
from edgessl.objectives.functional.contrastive import dcl_loss, in_batch_nce_loss, info_nce_loss, nt_xent_loss
from edgessl.objectives.functional.diagnostics import effective_rank, embedding_std
from edgessl.objectives.functional.distillation import dino_loss, koleo_loss, negative_cosine_loss
from edgessl.objectives.functional.generative import diffuse, gaussian_kl, signal_levels
from edgessl.objectives.functional.masked import masked_reconstruction_loss, patchify, unpatchify
from edgessl.objectives.functional.redundancy import barlow_twins_loss, tico_loss, vicreg_loss
from edgessl.objectives.functional.rows import centred, normalize, require_rows, standardized
from edgessl.objectives.functional.sequence import (
    bits_per_character,
    clip_loss,
    cpc_loss,
    negative_sampling_loss,
    similarity_distillation_loss,
    token_cross_entropy,
)

__all__ = [
    "barlow_twins_loss",
    "bits_per_character",
    "centred",
    "clip_loss",
    "cpc_loss",
    "cross_view_entropy",
    "dcl_loss",
    "diffuse",
    "dino_loss",
    "effective_rank",
    "embedding_std",
    "gaussian_kl",
    "in_batch_nce_loss",
    "info_nce_loss",
    "koleo_loss",
    "masked_reconstruction_loss",
    "minibatch_kmeans",
    "negative_cosine_loss",
    "negative_sampling_loss",
    "normalize",
    "nt_xent_loss",
    "patchify",
    "require_rows",
    "signal_levels",
    "similarity_distillation_loss",
    "sinkhorn",
    "standardized",
    "swav_loss",
    "tico_loss",
    "token_cross_entropy",
    "unpatchify",
    "vicreg_loss",
]
