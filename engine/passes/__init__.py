"""The rewrites, in their order. Each is a function of the graph, which it changes in place."""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import ModelError
from engine.graph import Graph
from engine.passes.activation import absorb_activations, absorb_residuals, fuse_activations
from engine.passes.attention import fuse_attention
from engine.passes.chains import recognise_chains
from engine.passes.constants import fold_constants, fold_quantized_constants, remove_identities
from engine.passes.duplicates import merge_duplicates
from engine.passes.embedding import fuse_embeddings
from engine.passes.integer import expand_integer_products
from engine.passes.layer_norm import fuse_layer_norm
from engine.passes.linear import fuse_linears
from engine.passes.quantized import normalize_quantized_constants, pair_quantization, sink_quantization

Pass = Callable[[Graph], None]

PASSES: tuple[Pass, ...] = (
    remove_identities,
    fold_constants,
    expand_integer_products,
    pair_quantization,
    normalize_quantized_constants,
    merge_duplicates,
    fuse_layer_norm,
    fuse_activations,
    fuse_embeddings,
    fuse_attention,
    fuse_linears,
    sink_quantization,
    recognise_chains,
    merge_duplicates,
    absorb_activations,
    absorb_residuals,
    fold_quantized_constants,
)


def optimise(graph: Graph, stop_after: int | None = None) -> None:
    """Runs the passes over an annotated graph, all or the first `stop_after`, and checks the graph after each.

    Raises ModelError, which names the pass where a rewrite left the graph broken.
    """
    graph.prune()
    for rewrite in PASSES[:stop_after]:
        rewrite(graph)
        try:
            graph.sort()
            graph.prune()
            graph.check()
        except ModelError as error:
            raise ModelError(f"after the pass {rewrite.__name__}: {error}") from error
