"""What traker must know of a language model: its output on a row of tokens, and per-row gradients in chunks."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from trak.gradient_computers import AbstractGradientComputer, FunctionalGradientComputer
from trak.modelout_functions import AbstractModelOutput

from tdabench.attributors.adapters.token_rows import IGNORED


class RowOutput(AbstractModelOutput):
    r"""traker's model output of a row of tokens: the sum of the margins of those that count (Park et al., 2023, 5.2).

    .. math:: f(z) = \sum_t \log \frac{p_t}{1 - p_t}, \qquad Q(z) = \frac{1}{T} \sum_t (1 - p_t)

    with :math:`p_t` the probability of token t given those before it: a row is T classifications, over the vocabulary.
    Their loss is :math:`\sum_t \log(1 + e^{-f_t})`, whose slope in :math:`f_t` is :math:`-(1 - p_t)`. traker has one
    weight an example, the slope of the loss in its output: it is the tokens' mean, the slope if all margins move by
    the same amount. (Their sum would count a row's length twice, since f is a sum already.)
    """

    def __init__(self) -> None:
        """Keep nothing."""

    def get_output(
        self,
        model: nn.Module,
        weights: dict[str, Tensor],
        buffers: dict[str, Tensor],
        tokens: Int[Tensor, " position"],
        labels: Int[Tensor, " position"],
    ) -> Float[Tensor, ""]:
        """Return the output of one row."""
        logits = _predict(model, weights, buffers, tokens[None])[0]
        labels = labels[1:]
        counts = labels != IGNORED
        chosen = torch.where(counts, labels, 0)[:, None]
        others = logits.scatter(1, chosen, -torch.inf).logsumexp(dim=1)
        margins = logits.gather(1, chosen).squeeze(1) - others
        return torch.where(counts, margins, 0.0).sum()

    def get_out_to_loss_grad(
        self, model: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor], batch: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "example 1"]:
        """Return the weight of each row; 0 if none of its tokens counts."""
        tokens, labels = batch[0], batch[1][:, 1:]
        with torch.no_grad():
            logits = _predict(model, weights, buffers, tokens)
            losses = functional.cross_entropy(logits.mT, labels, ignore_index=IGNORED, reduction="none")
        counts = labels != IGNORED
        # Where a token doesn't count the loss is 0, and so 1 - p.
        return -losses.neg().expm1().sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True).clamp_min(1)


def _predict(
    model: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor], tokens: Int[Tensor, "example position"]
) -> Float[Tensor, "example predicted vocabulary"]:
    """Return the logits of every token but the first."""
    inputs = {"input_ids": tokens, "use_cache": False}
    return torch.func.functional_call(model, (weights, buffers), args=(), kwargs=inputs).logits[:, :-1].float()


def compute_in_chunks(size: int) -> type[AbstractGradientComputer]:
    """Make a gradient computer of traker that differentiates so many examples at a time.

    traker draws its projection anew for every batch that it is given: few large ones are fast, but the activations of
    a language model bound how many rows go through it at once.
    """

    class ChunkedGradientComputer(AbstractGradientComputer):
        def __init__(self, *settings: object, **named: object) -> None:
            self.inner = FunctionalGradientComputer(*settings, **named)

        def load_model_params(self, model: nn.Module) -> None:
            self.inner.load_model_params(model)

        def compute_per_sample_grad(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
            gradients = {}
            for start in range(0, len(batch[0]), size):
                chunk = self.inner.compute_per_sample_grad([part[start : start + size] for part in batch])
                for name, part in chunk.items():
                    if name not in gradients:
                        gradients[name] = part.new_empty(len(batch[0]), *part.shape[1:])
                    gradients[name][start : start + size] = part
            return gradients

        def compute_loss_grad(self, batch: tuple[Tensor, ...]) -> Tensor:
            parts = zip(*(part.split(size) for part in batch), strict=True)
            return torch.cat([self.inner.compute_loss_grad(part) for part in parts])

    return ChunkedGradientComputer
