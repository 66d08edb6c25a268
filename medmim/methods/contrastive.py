"""Contrastive learning of masked views: two masked views of an image are matched among all others.

The second of the survey's two schemes (arXiv 2408.06687), as in MoCo v3 (Chen et al., 2021, arXiv
2104.02057): each view has its own mask, is pooled over visible voxels, projected, and compared with the
teacher's embedding of the other view by InfoNCE (arXiv 1807.03748). A queue of the teacher's recent
embeddings (MoCo, arXiv 1911.05722) provides enough negatives for small batches. With shared weights there is
no teacher, as in SimCLR (arXiv 2002.05709), and gradients flow through both views. No hidden cell is
predicted, so that there is no leak alarm; the run's tag `leak_alarm` records this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medmim.distributed import all_gather, rank
from medmim.encoders import Encoder
from medmim.errors import UsageError, did_you_mean
from medmim.methods.base import Method, Step, require_grid
from medmim.methods.ema_teacher import EMATeacher
from medmim.methods.visible_encoding import Compute, Pooled, pooled
from medmim.shapes import Hidden, Images, Scalar, Size

Embeddings = Float[Tensor, "_ width"]

TEACHERS = ("ema", "shared")
WIDTH = 128  # of the embeddings, as in MoCo and SimCLR


class Contrastive(Method):
    """The method from its parts."""

    views = 2
    reconstructs = False

    def __init__(
        self,
        encoder: Encoder,
        project: nn.Module,
        predict: nn.Module,
        *,
        shared: bool,
        others: Queue,
        cell: Size,
        compute: Compute,
        temperature: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = project
        self.predict = predict
        self.encoder_teacher = None if shared else EMATeacher(encoder)
        self.project_teacher = None if shared else EMATeacher(project)
        self.others = others
        self.cell = cell
        self.compute: Compute = compute
        self.temperature = temperature
        self.axes = {
            "target": f"{'own' if shared else 'averaged'} features of another view",
            "architecture": "shared weights" if shared else "student and teacher",
            "objective": "contrastive",
        }

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss of one batch of pairs: the first views of all images, then all second views."""
        require_grid(images, hidden, self.cell)
        return self.contrast(pooled(self.encoder, images, hidden, compute=self.compute), images, hidden)

    def contrast(self, features: Pooled, images: Images, hidden: Hidden) -> Step:
        """Compute the contrastive loss from the pooled features of both views of all images."""
        own = self.project(features)
        queries, keys = F.normalize(self.predict(own).float(), dim=1), self._keys(own, images, hidden)
        keys, mine, partner = self._gather_processes(keys)
        loss, accuracy = info_nce(
            queries, keys, self.others.all(), own=mine, partner=partner, temperature=self.temperature
        )
        if self.training:
            self.others.add(keys.detach())
        alignment = (queries * keys[partner]).sum(dim=1).mean()
        return Step(loss=loss, parts={"accuracy": accuracy, "alignment": alignment.detach()})

    def _gather_processes(self, keys: Embeddings) -> tuple[Embeddings, Tensor, Tensor]:
        """Return the embeddings of all processes, and the indices of own views and of their partners.

        The order is that of one process with all images: all first views, then all second views.
        """
        shares, here = (all_gather(keys), rank()) if self.training else (keys[None], 0)
        gathered = rearrange(shares, "share (view image) width -> (view share image) width", view=2)
        count = len(gathered)
        indices = torch.arange(count, device=keys.device).view(2, len(shares), -1)[:, here].flatten()
        return gathered, indices, (indices + count // 2) % count

    def on_step_end(self, progress: float) -> None:
        """Update the teacher and enqueue its last embeddings."""
        super().on_step_end(progress)
        if self.encoder_teacher and self.project_teacher:
            self.encoder_teacher.update(self.encoder, progress=progress)
            self.project_teacher.update(self.project, progress=progress)
        self.others.commit()

    def discard_pending(self) -> None:
        """Discard the embeddings of a skipped step."""
        self.others.discard_pending()

    def _keys(self, own: Embeddings, images: Images, hidden: Hidden) -> Embeddings:
        """Return the teacher's unit-length embeddings of all views."""
        if self.encoder_teacher and self.project_teacher:
            with self.encoder_teacher.inference() as encoder:
                seen = pooled(encoder, images, hidden, compute=self.compute)
            own = self.project_teacher(seen)
        return F.normalize(own.float(), dim=1)


class Queue(nn.Module):
    """Recent embeddings, newest first; forwards do not change it, new embeddings enter after a step."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.kept: Tensor
        self.count: Tensor
        self.register_buffer("kept", torch.zeros(length, width))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self._pending: list[Embeddings] = []  # one entry per batch of the step

    def all(self) -> Embeddings:
        """Return the stored embeddings."""
        return self.kept[: int(self.count)]

    def add(self, embeddings: Embeddings) -> None:
        """Store embeddings for the next `commit`."""
        self._pending.insert(0, embeddings.to(self.kept.dtype))

    def commit(self) -> None:
        """Enqueue pending embeddings and drop the oldest beyond the length."""
        self.count += sum(map(len, self._pending))
        self.count.clamp_(max=len(self.kept))
        self.kept.copy_(torch.cat([*self._pending, self.kept])[: len(self.kept)])
        self.discard_pending()

    def discard_pending(self) -> None:
        """Discard pending embeddings."""
        self._pending.clear()


def info_nce(
    queries: Embeddings,
    keys: Embeddings,
    negatives: Embeddings,
    *,
    own: Tensor,
    partner: Tensor,
    temperature: float,
) -> tuple[Scalar, Scalar]:
    """Return the cross entropy of retrieving each view's partner, and the retrieval accuracy.

    Queries, keys and negatives are embeddings of unit length; `own` and `partner` are the indices of each
    view and of its partner in `keys`. A view is not its own negative.
    """
    with torch.autocast(queries.device.type, enabled=False):  # similarities differ by little
        views = (queries @ keys.T).scatter(1, own[:, None], -torch.inf)
        scores = torch.cat([views, queries @ negatives.T], dim=1) / temperature
    return F.cross_entropy(scores, partner), (scores.argmax(dim=1) == partner).float().mean()


def build_contrastive(
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    compute: Compute = "packed",
    teacher: str = "ema",
    temperature: float = 0.1,
    queue: int = 256,
) -> Contrastive:
    """Build the contrastive scheme around an encoder.

    Args:
        teacher: ema (a moving average of the student) or shared (the student itself, no queue).
        queue: number of recent embeddings of the teacher used as negatives; 0: those of the batch only.
    """
    if teacher not in TEACHERS:
        raise UsageError(f"method_options: unknown teacher '{teacher}'{did_you_mean(teacher, TEACHERS)}")
    if temperature <= 0 or queue < 0:
        raise UsageError(
            "method_options: expected a temperature above 0 and a queue of at least 0, got "
            f"{temperature:g} and {queue}"
        )
    shared = teacher == "shared"
    project = two_layers(encoder.channels[-1], 2 * encoder.channels[-1])
    return Contrastive(
        encoder,
        project,
        nn.Identity() if shared else two_layers(WIDTH, 2 * WIDTH),
        shared=shared,
        others=Queue(0 if shared else queue, WIDTH),
        cell=cell,
        compute=compute,
        temperature=temperature,
    )


def two_layers(entering: int, between: int) -> nn.Module:
    """Return SimCLR's two-layer MLP; batch norm removes the component common to all images."""
    return nn.Sequential(
        nn.Linear(entering, between), nn.BatchNorm1d(between), nn.ReLU(), nn.Linear(between, WIDTH)
    )
