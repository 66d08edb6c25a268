"""A contrastive scheme under masks: two masked views of an image find each other among all others.

The second of the survey's two schemes (arXiv 2408.06687), as in MoCo v3 (Chen et al., 2021, arXiv
2104.02057): each view is seen under a mask of its own, pooled over what is visible, projected, and compared
with the teacher's embedding of the other view by InfoNCE (arXiv 1807.03748). A queue of the teacher's last
embeddings (MoCo, arXiv 1911.05722) gives small batches negatives enough. With shared weights there is no
teacher, as in SimCLR (arXiv 2002.05709): gradients flow through both views. No hidden cell is predicted,
so there is no error of any, and no alarm of leaks: the run's tag `leak_alarm` says so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medmim.distributed import each_of_all, number
from medmim.encoders import Encoder
from medmim.errors import UsageError, did_you_mean
from medmim.methods.base import Method, Step, require_grid
from medmim.methods.ema_teacher import EMATeacher
from medmim.methods.visible_encoding import Compute, pooled
from medmim.shapes import Hidden, Images, Scalar, Size

Embeddings = Float[Tensor, "_ width"]

TEACHERS = ("ema", "shared")
_WIDTH = 128  # of the embeddings, as in MoCo and SimCLR


class Contrastive(Method):
    """The method from its parts.

    Args:
        encoder: the network that is kept.
        project: from pooled features to embeddings.
        predict: from the student's embedding to the teacher's.
        shared: the student's own weights stand for the teacher; without, moving averages of encoder and
            projector.
        others: the teacher's earlier embeddings, for comparison.
        cell: mask cell in voxels.
        compute: how hidden cells are kept from the encoder; the results are equal.
        temperature: of the comparison.
    """

    views = 2
    rebuilds = False

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
        """Compute the loss of one batch of pairs.

        Args:
            images: (batch, channels, *space): the first view of all images, then the second of all.
            hidden: (batch, *grid), True = hidden; a mask for each view.
        """
        require_grid(images, hidden, self.cell)
        own = self.project(pooled(self.encoder, images, hidden, compute=self.compute))
        asked, given = F.normalize(self.predict(own).float(), dim=1), self._given(own, images, hidden)
        given, mine, partner = self._of_step(given)
        loss, accuracy = info_nce(
            asked, given, self.others.all(), own=mine, partner=partner, temperature=self.temperature
        )
        if self.training:
            self.others.note(given.detach())
        alignment = (asked * given[partner]).sum(dim=1).mean()
        return Step(loss=loss, parts={"accuracy": accuracy, "alignment": alignment.detach()})

    def _of_step(self, given: Embeddings) -> tuple[Embeddings, Tensor, Tensor]:
        """Return the embeddings of all processes, and the numbers of own views and of their partners.

        In the order of one process with all images: the first view of all, then the second of all.
        """
        shares, here = (each_of_all(given), number()) if self.training else (given[None], 0)
        all_of_them = rearrange(shares, "share (view image) width -> (view share image) width", view=2)
        count = len(all_of_them)
        numbers = torch.arange(count, device=given.device).view(2, len(shares), -1)[:, here].flatten()
        return all_of_them, numbers, (numbers + count // 2) % count

    def after_step(self, progress: float) -> None:
        """Let the teacher follow, and its last embeddings join the queue."""
        if self.encoder_teacher and self.project_teacher:
            self.encoder_teacher.update(self.encoder, progress=progress)
            self.project_teacher.update(self.project, progress=progress)
        self.others.join()

    def forget(self) -> None:
        """Keep embeddings of a step that is not taken out of the queue."""
        self.others.forget()

    def _given(self, own: Embeddings, images: Images, hidden: Hidden) -> Embeddings:
        """Return the teacher's embeddings of all views, of length 1."""
        if self.encoder_teacher and self.project_teacher:
            with self.encoder_teacher.asked() as encoder:
                seen = pooled(encoder, images, hidden, compute=self.compute)
            own = self.project_teacher(seen)
        return F.normalize(own.float(), dim=1)


class Queue(nn.Module):
    """The last embeddings, newest first; new ones join after an optimiser step: a forward changes nothing.

    Args:
        length: how many are kept.
        width: of an embedding.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.kept: Tensor
        self.count: Tensor
        self.register_buffer("kept", torch.zeros(length, width))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self._noted: list[Embeddings] = []  # one a batch: several make a step

    def all(self) -> Embeddings:
        """Return the embeddings that are there."""
        return self.kept[: int(self.count)]

    def note(self, embeddings: Embeddings) -> None:
        """Keep embeddings in mind for `join`."""
        self._noted.insert(0, embeddings.to(self.kept.dtype))

    def join(self) -> None:
        """Add what was noted, and drop the oldest beyond the length."""
        self.count += sum(map(len, self._noted))
        self.count.clamp_(max=len(self.kept))
        self.kept.copy_(torch.cat([*self._noted, self.kept])[: len(self.kept)])
        self.forget()

    def forget(self) -> None:
        """Drop what was noted."""
        self._noted.clear()


def info_nce(
    asked: Embeddings,
    given: Embeddings,
    others: Embeddings,
    *,
    own: Tensor,
    partner: Tensor,
    temperature: float,
) -> tuple[Scalar, Scalar]:
    """Return the cross entropy of finding each view's partner, and the share that is found.

    Args:
        asked: one embedding a view, of length 1.
        given: the teacher's of these and other views, of length 1; a view is not compared with itself.
        others: further embeddings that are no view's partner.
        own: number of each view in `given`.
        partner: number of each view's partner in `given`.
        temperature: similarities are divided by it.
    """
    with torch.autocast(asked.device.type, enabled=False):  # similarities lie close to each other
        views = (asked @ given.T).scatter(1, own[:, None], -torch.inf)
        scores = torch.cat([views, asked @ others.T], dim=1) / temperature
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
    """Put the contrastive scheme together around an encoder.

    Args:
        encoder: any encoder.
        spatial_dims: 2 or 3.
        cell: mask cell in voxels.
        compute: packed or masked.
        teacher: ema (a moving average of the student) or shared (the student itself, no queue).
        temperature: of the comparison.
        queue: earlier embeddings of the teacher that are compared with; 0: those of the batch only.

    Raises:
        UsageError: for an unknown teacher, or numbers that cannot be.
    """
    if teacher not in TEACHERS:
        raise UsageError(f"method_options: unknown teacher '{teacher}'{did_you_mean(teacher, TEACHERS)}")
    if temperature <= 0 or queue < 0:
        raise UsageError(
            "method_options: expected a temperature above 0 and a queue of at least 0, got "
            f"{temperature:g} and {queue}"
        )
    shared = teacher == "shared"
    project = _mlp(encoder.channels[-1], 2 * encoder.channels[-1])
    return Contrastive(
        encoder,
        project,
        nn.Identity() if shared else _mlp(_WIDTH, 2 * _WIDTH),
        shared=shared,
        others=Queue(0 if shared else queue, _WIDTH),
        cell=cell,
        compute=compute,
        temperature=temperature,
    )


def _mlp(entering: int, between: int) -> nn.Module:
    """Return SimCLR's two layers; batch norm takes away what all images share, which at first is most."""
    return nn.Sequential(
        nn.Linear(entering, between), nn.BatchNorm1d(between), nn.ReLU(), nn.Linear(between, _WIDTH)
    )
