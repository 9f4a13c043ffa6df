"""What travels between Shoal's processes: jobs, replies, the state of a node and its load report.

Every structure is a msgspec ``Struct``: a reader ignores the fields that it does not know and fills in the
ones that are missing, so versions N and N+1 of a fleet run side by side. Time on the wire is what remains,
in milliseconds; inside a node, instants are on the monotonic clock, which its processes share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

ENVELOPE_VERSION = 1

Status = Literal["loading", "ready", "stalled", "restarting", "failed", "stopping"]
Priority = Literal["interactive", "bulk"]


class Tensor(msgspec.Struct, frozen=True):
    """A named array on the wire: NumPy dtype name, shape, and C-order little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class ImageInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a photo becomes a model's input: uint8 of shape (height, width, channels), RGB or grey.

    ``center`` cuts the centre square whose side is size / (size + margin) of the shorter side, as ImageNet
    models are evaluated; ``squash`` resizes the whole picture; ``letterbox`` keeps its proportions, in the middle
    of a ground whose every channel is ``fill``.
    """

    name: str
    height: int
    width: int
    crop: Literal["center", "squash", "letterbox"] = "center"
    margin: int = 0
    resample: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    channels: Literal[1, 3] = 3
    fill: int = 114

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """What part of a picture a model sees, all in pixels of the upright original of ``width`` x ``height``.

    The model's input covers the box from ``left``, ``top`` to ``right``, ``bottom``; of a letterboxed one it reaches
    beyond the picture.
    """

    width: int
    height: int
    left: float
    top: float
    right: float
    bottom: float


class Option(msgspec.Struct, frozen=True):
    """A number that a request may choose for its task: a query parameter, from ``low`` to ``high``."""

    low: float
    high: float
    whole: bool = False


class TensorSpec(msgspec.Struct, frozen=True):
    """An array that a model takes or gives for one image: NumPy dtype name, and shape with -1 where it varies.

    A shape of () is a single value, or one that nobody declares.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def takes(self, dtype: str, shape: Sequence[int]) -> bool:
        """Whether an array fits: just so where the shape says, of any length but none where it varies."""
        if dtype != self.dtype or len(shape) != len(self.shape):
            return False
        return all(has > 0 and wants in (-1, has) for has, wants in zip(shape, self.shape, strict=True))


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """An output that is asked for as the network gives it. With ``classes`` it is asked for as that many of its
    greatest values, each as the bytes ``VALUE:INDEX`` or ``VALUE:INDEX:LABEL``."""

    name: str
    classes: int = 0


class ModelCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """What everyone may know of a loaded model version. ``digest`` is the sha256 of its weights.

    ``options`` are what a request may choose, by name. The predictions of one with ``boxes`` can be drawn into the
    picture. Of one that is not ``cacheable``, equal images may have different answers. ``tensor`` is the network's own
    input, which takes arrays that a client has made ready, and ``outputs`` are what it gives; ``platform`` is what
    other servers call its format.
    """

    model: str
    version: str
    digest: str
    task: str
    input: ImageInput
    max_batch_size: int
    options: dict[str, Option] = {}
    boxes: bool = False
    cacheable: bool = True
    tensor: TensorSpec | None = None
    outputs: tuple[TensorSpec, ...] = ()
    platform: str = ""

    @property
    def key(self) -> str:
        return model_key(self.model, self.version)


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """One image on its way through the queue of a model version.

    ``inputs`` maps input names to tensors. ``submitted`` is on the node's monotonic clock (seconds), and
    ``remaining_ms`` counts from it. ``waiters`` are the reply streams that want the answer; a job with a ``flight`` has
    them in the queue, where more may join. ``digest`` is the sha256 of the image as it came, and ``frame`` says what
    part of it the tensor shows. ``trace_id`` is the W3C ``traceparent`` of the request, if it is traced. With
    ``outputs`` the network's own outputs are the answer, and not the task's; an empty list is all of them. One with a
    ``record`` is answered there, for a client that asks again later. A ``heartbeat`` is nobody's image: it shows that
    the queue and the model process work.
    """

    id: str
    inputs: dict[str, Tensor]
    waiters: list[str]
    submitted: float
    remaining_ms: int
    request_id: str
    v: int = ENVELOPE_VERSION
    payload: Literal["inline"] = "inline"
    trace_id: str = ""
    subject: str = ""
    priority: Priority = "interactive"
    group: str = ""
    options: dict[str, Any] = {}
    digest: str = ""
    frame: Frame | None = None
    heartbeat: bool = False
    flight: str = ""
    outputs: tuple[Output, ...] | None = None
    record: str = ""

    @property
    def deadline(self) -> float:
        """The instant, on the node's monotonic clock, after which nobody waits any more."""
        return self.submitted + self.remaining_ms / 1000


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to one job: ``answer`` (JSON-ready) or ``outputs``, by name, or an error's ``code`` and ``message``.

    An output of classes has the dtype ``bytes``: each element is its length (4 bytes, little-endian) and itself.

    The times are milliseconds: waited in the queue, executed (the whole batch's), of ``batch_size`` images.
    ``attempt`` counts the claims of the job, from 1.
    """

    job: str
    v: int = ENVELOPE_VERSION
    answer: dict[str, Any] | None = None
    outputs: dict[str, Tensor] = {}
    code: str = ""
    message: str = ""
    queue_ms: float = 0.0
    inference_ms: float = 0.0
    batch_size: int = 0
    attempt: int = 1
    process: str = ""


class Quarantined(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image that killed its model process each time. ``since`` is seconds since the epoch."""

    digest: str
    request_id: str
    since: float


class ModelState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model version on one node: its card (once loaded), how many processes serve it, and its cost.

    ``seconds_per_image`` is the measured service time of the whole node: execution seconds divided by images
    and by ready processes, smoothed. ``idle`` is the seconds since an execution was last completed; a ``stalled``
    model has not completed one for too long, not even of a heartbeat. ``images`` and ``busy`` count what its processes
    have executed since the supervisor began: images, and seconds of all processes together.
    """

    status: Status
    card: ModelCard | None = None
    processes: int = 0
    seconds_per_image: float = 0.0
    idle: float = 0.0
    reason: str = ""
    images: int = 0
    busy: float = 0.0


class Served(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the fronts of a node have done for one model version since the supervisor began.

    ``answers`` to requests, the ``seconds`` that those took together, and the bytes of the bodies that came past every
    gateway.
    """

    answers: int = 0
    seconds: float = 0.0
    direct_bytes: int = 0

    def __add__(self, other: Served) -> Served:
        return Served(
            self.answers + other.answers, self.seconds + other.seconds, self.direct_bytes + other.direct_bytes
        )


class NodeState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the supervisor tells its fronts, on every change and at least once a second. ``pids`` are by role."""

    draining: bool = False
    models: dict[str, ModelState] = {}
    pids: dict[str, list[int]] = {}
    served: dict[str, Served] = {}


class ModelLoad(msgspec.Struct, frozen=True):
    """The load of one model version on one node. ``queue_depth`` counts waiting and executing jobs, bulk or not.

    ``slots`` and ``bulk_slots`` are how many more the gateway that asked may send, and ``arrived`` how many uses of
    its tickets have come since the queue began: what it has sent beyond those is still on its way. A worker that
    ``caches`` remembers its answers. ``reason`` is why the version has failed. ``images`` and ``busy`` are cumulative,
    as in ``ModelState``: two reports give images per second, and the share of the time that the processes are busy.
    """

    status: Status
    queue_depth: int = 0
    bulk_depth: int = 0
    capacity: int = 0
    slots: int = 0
    bulk_slots: int = 0
    arrived: int = 0
    seconds_per_image: float = 0.0
    idle: float = 0.0
    digest: str = ""
    task: str = ""
    reason: str = ""
    caches: bool = False
    processes: int = 0
    images: int = 0
    busy: float = 0.0


class LoadReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker's load: polled by the gateways, and carried on every answer in the header ``Shoal-Load``.

    ``measured`` is when, in seconds on the node's monotonic clock: of two reports the later one counts.
    """

    worker: str
    incarnation: str
    measured: float = 0.0
    draining: bool = False
    models: dict[str, ModelLoad] = {}
    public_url: str | None = None
    served: dict[str, Served] = {}


def model_key(model: str, version: str) -> str:
    """The name of a model version in queues, load reports and discovery: ``lite0@1``."""
    return f"{model}@{version}"


_packer = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(Job)
_reply_decoder = msgspec.msgpack.Decoder(Reply)
_quarantined_decoder = msgspec.msgpack.Decoder(Quarantined)


def pack(envelope: Job | Reply | Quarantined) -> bytes:
    return _packer.encode(envelope)


def unpack_job(data: bytes) -> Job:
    """Raises ``msgspec.DecodeError`` for anything that is not a job."""
    return _job_decoder.decode(data)


def unpack_reply(data: bytes) -> Reply:
    """Raises ``msgspec.DecodeError`` for anything that is not a reply."""
    return _reply_decoder.decode(data)


def unpack_quarantined(data: bytes) -> Quarantined:
    """Raises ``msgspec.DecodeError`` for anything that is not one."""
    return _quarantined_decoder.decode(data)
