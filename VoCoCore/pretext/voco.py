"""VoCo as a pretext task: views, student, teacher, losses and diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from VoCoCore.data import sampling
from VoCoCore.data.crops import cut_crops
from VoCoCore.models.heads import MapProjector, Projector, pool_maps
from VoCoCore.models.teacher import Teacher
from VoCoCore.pretext import voco_losses
from VoCoCore.pretext.gather import gather, ranks_together
from VoCoCore.pretext.parts import embeddings_in_parts
from VoCoCore.pretext.task import Arrays, Batch, Outcome
from VoCoCore.settings import PretrainSettings

MakeEncoder = Callable[[], nn.Module]


class Branch(nn.Module):
    """An encoder with a projection head; crops (M, C, X, Y, Z) -> projections (M, c) of all ranks' crops."""

    def __init__(self, encoder: nn.Module, head: nn.Module, in_parts: bool) -> None:
        """``in_parts``: crops pass the encoder a few at a time, see `embeddings_in_parts`."""
        super().__init__()
        self.encoder, self.head, self.in_parts = encoder, head, in_parts

    def embed(self, crops: Tensor) -> Tensor:
        """What the head takes of ``crops``: their pooled maps (M, sum of C), or their last map."""
        embed = partial(_embed, self.encoder, last=isinstance(self.head, MapProjector))
        if self.in_parts:
            return embeddings_in_parts(embed, crops)
        if self.training:
            return embed(crops)
        # A rank looks at whole batches, of which it has its share in training, and no more room.
        return torch.cat([embed(part) for part in crops.chunk(ranks_together())])

    def forward(self, crops: Tensor) -> Tensor:
        """Projections of all crops."""
        return project(self.head, self.embed(crops))


def _embed(encoder: nn.Module, crops: Tensor, last: bool) -> Tensor:
    maps = encoder(crops)
    return maps[-1] if last else pool_maps(maps)


def project(head: nn.Module, embedded: Tensor, weights: Tensor | None = None) -> Tensor:
    """Project embeddings of M crops to (M * ranks, c); ``weights`` (M,) scale each crop's."""
    # Only in training do all ranks look at one batch together.
    gathered = gather if head.training else _alone
    if weights is not None:
        embedded = embedded * weights.to(embedded.dtype).view(-1, *[1] * (embedded.ndim - 1))
    if isinstance(head, MapProjector):
        return gathered(head(embedded))
    # Gathered before the head, because its batch statistics run over the crops of the whole batch.
    return head(gathered(embedded))


def _alone(x: Tensor) -> Tensor:
    return x


class VoCo(nn.Module):
    """Predict from similarities which base crops each random crop overlaps.

    The student is one encoder with a projector. The teacher covers nothing, the projector, or both; it starts from
    values of its own and follows the student between the student's forward pass and its own, as published: once for
    each optimiser step, at the first of its batches.
    """

    def __init__(self, settings: PretrainSettings, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.settings = settings
        self.student = self._make_branch(make_encoder())
        self.teacher: Teacher | None = None
        if settings.pretext.teacher == "network":
            self.teacher = Teacher(self._make_branch(make_encoder()))
        elif settings.pretext.teacher == "projector":
            self.teacher = Teacher(self._make_head(self.student.encoder))
        self._followed = False

    def _make_branch(self, encoder: nn.Module) -> Branch:
        return Branch(encoder, self._make_head(encoder), in_parts=self.settings.model.checkpointing)

    def _make_head(self, encoder: nn.Module) -> nn.Module:
        model, channels = self.settings.model, cast(tuple[int, ...], encoder.channels)
        if self.settings.pretext.pooling == "after":
            return MapProjector(channels[-1], model.projector_width)
        return Projector(sum(channels), model.projector_width, layers=model.projector_layers)

    @staticmethod
    def views(settings: PretrainSettings, number: int, shape: Sequence[int], stream: int) -> Arrays:
        """Random and base crops of one sample; see `PretextTask.views` and `sampling.Draw`."""
        made = sampling.draw(settings, number, shape, stream)
        size = settings.crops.volume_size
        assert size
        return {**vars(made), "region": np.stack([made.region, np.asarray(size)])}

    def cut(self, batch: Batch) -> Tensor:
        """All crops of a batch (B * (k + n), C, *input_size), each volume's random crops before its base crops."""
        crops = self.settings.crops
        assert crops.random_size and crops.volume_size and crops.input_size
        largest = [
            max(r, -(-v // n))
            for r, v, n in zip(crops.random_size, crops.volume_size, crops.counts, strict=True)
        ]
        extra = {name: batch[name] for name in ("flips", "turns", "shifts")} if self.training else {}
        return cut_crops(
            batch["volumes"], batch["starts"], batch["sizes"], crops.input_size, largest=largest, **extra
        )

    def forward(self, batch: Batch) -> Outcome:
        """Losses of a batch: terms ``prediction``, ``regularisation`` and, with several volumes, ``inter``."""
        crops = batch["crops"] if "crops" in batch else self.cut(batch)
        keep = batch["keep"].flatten() / (1 - self.settings.pretext.drop_crops) if self._drops else None
        embedded = self.student.embed(crops)
        student = project(self.student.head, embedded, keep)
        teacher = self._teach(crops, embedded)
        labels = gather(batch["labels"]) if self.training else batch["labels"]
        student, volumes = student.unflatten(0, (len(labels), -1)), len(labels)
        teacher = None if teacher is None else teacher.unflatten(0, (volumes, -1))
        return self.losses(student, teacher, labels)

    @property
    def _drops(self) -> bool:
        return self.training and self.settings.pretext.drop_crops > 0

    def _teach(self, crops: Tensor, embedded: Tensor) -> Tensor | None:
        """The teacher's projections (all ranks' crops, c); in training it first follows the student, once a step."""
        if self.teacher is None:
            return None
        whole = self.settings.pretext.teacher == "network"
        if self.training and not self._followed:
            self.teacher.follow(self.student if whole else self.student.head, self.settings.pretext.momentum)
            self._followed = True
        with torch.no_grad():
            return self.teacher.network(crops) if whole else project(self.teacher.network, embedded)

    def losses(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> Outcome:
        """Losses from projections (V, k + n, c) of student and teacher and labels (V, k, n)."""
        options, k = self.settings.pretext, labels.shape[1]
        p, q = student[:, :k], student[:, k:]
        logits = self._logits(student, teacher, k)
        loss = voco_losses.prediction_loss(logits, labels, options.prediction, epsilon=options.epsilon)
        terms = {"prediction": options.prediction_weight * loss}
        if options.inter_volume and teacher is not None and len(labels) > 1:
            inter = voco_losses.inter_volume_loss(
                p, q, teacher[:, :k], teacher[:, k:], options.prediction, epsilon=options.epsilon
            )
            terms["inter"] = options.prediction_weight * inter
        if options.lambda_ > 0:
            form = "paper" if options.regularisation == "abs" else "v1"
            terms["regularisation"] = options.lambda_ * voco_losses.regularisation_loss(q, form)
        return Outcome(terms, {"logits": logits.detach(), "labels": labels, "bases": q.detach()})

    def _logits(self, student: Tensor, teacher: Tensor | None, k: int) -> Tensor:
        options = self.settings.pretext
        form = "paper" if options.similarity == "cos" else "v1"
        p, q = student[:, :k], student[:, k:]
        if teacher is None:
            return voco_losses.similarity(p, q, form, detach=options.detach)
        if not options.both_directions:
            return voco_losses.similarity(p, teacher[:, k:], form, detach=False)
        bases = q.detach() if options.detach else q
        return voco_losses.both_directions(p, bases, teacher[:, :k], teacher[:, k:], form)

    @torch.no_grad()
    def diagnostics(self, outcome: Outcome) -> dict[str, Tensor]:
        """``position_accuracy``, ``base_similarity`` (mean off-diagonal cosine) and ``effective_rank`` of the bases."""
        logits, labels, bases = (outcome.details[name] for name in ("logits", "labels", "bases"))
        gram = voco_losses.cosines(bases, bases)
        n = gram.shape[-1]
        off_diagonal = (gram.sum((-2, -1)) - gram.diagonal(dim1=-2, dim2=-1).sum(-1)) / max(n * (n - 1), 1)
        return {
            "position_accuracy": (logits.argmax(-1) == labels.argmax(-1)).float().mean(),
            "base_similarity": off_diagonal.mean(),
            "effective_rank": effective_rank(gram).mean(),
        }

    def after_step(self, step: int) -> None:
        """Let the teacher follow again at the next batch."""
        self._followed = False

    def export(self) -> nn.Module:
        """The student's encoder."""
        return self.student.encoder


def effective_rank(gram: Tensor) -> Tensor:
    """exp(entropy of the normalised eigenvalues) of Gram matrices (..., n, n): 1 (all alike) to n (all orthogonal).

    NaN where a matrix is not finite, as in a step that is skipped.
    """
    # On the host: small, asked for at reports alone, and not every device has float64 or this decomposition.
    matrices = gram.cpu().double()
    finite = matrices.isfinite().all(-1).all(-1)
    # Given one that is not, the decomposition raises an error.
    values = torch.linalg.eigvalsh(torch.where(finite[..., None, None], matrices, 0.0)).clamp(min=0)
    share = values / values.sum(-1, keepdim=True).clamp(min=1e-12)
    rank = torch.exp(-torch.special.xlogy(share, share).sum(-1))
    return torch.where(finite, rank, torch.nan).float().to(gram.device)
