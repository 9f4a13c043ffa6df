"""From photos to a model's input: every format as it should look, and nothing hostile costs more than its error."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shoal.errors import InvalidImage, TooManyPixels, UnsupportedImage
from shoal.wire import Frame, ImageInput
from worker.images import FORMATS, annotate, decode

Pixels = npt.NDArray[np.uint8]

CENTER = ImageInput("image", 64, 64, "center", margin=32, resample="bicubic")
SQUASH = ImageInput("image", 48, 64, "squash")
WIDE = ImageInput("image", 40, 64, "center", margin=8)
LETTER = ImageInput("image", 64, 96, "letterbox")
TALL = ImageInput("image", 96, 64, "letterbox", fill=0)
GREY_INPUT = ImageInput("image", 28, 28, "squash", channels=1)
MILLIONS = 40_000_000


def picture(width: int = 320, height: int = 240) -> Pixels:
    """Unlike itself in every other orientation: one gradient across, another down, and a red corner."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack(
        [255 * x / width, 255 * y / height, 128 + 60 * np.sin(18 * x / width) * np.cos(10 * y / height)], axis=2
    )
    pixels[: height // 4, : width // 4] = (250, 20, 20)
    return pixels.astype(np.uint8)


def saved(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def look(data: bytes, spec: ImageInput = SQUASH) -> Pixels:
    pixels, _ = decode(data, spec, max_pixels=MILLIONS)
    assert pixels.shape == (spec.height, spec.width, spec.channels)
    assert pixels.dtype == np.uint8
    return pixels


def framed(data: bytes, spec: ImageInput) -> Frame:
    return decode(data, spec, max_pixels=MILLIONS)[1]


def difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *, depth: int = 8, color: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("spec", [SQUASH, CENTER, WIDE])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_looks_alike(kind: str, spec: ImageInput) -> None:
    tolerance = {"JPEG": 3.0, "WEBP": 4.0, "GIF": 12.0}.get(kind, 0.0)
    assert difference(look(saved(picture(), kind), spec), look(saved(picture(), "BMP"), spec)) <= tolerance


HALVES = np.repeat(np.repeat(np.array([[0, 255]], dtype=np.uint8), 100, axis=0), 100, axis=1)
GREY = Image.fromarray(HALVES)
DEEP_ROW = b"\0" + b"\x00\x00" * 300 + b"\xff\xff" * 300

MODES: dict[str, Callable[[], bytes]] = {
    "1 PNG": lambda: saved(GREY.convert("1"), "PNG"),
    "1 BMP": lambda: saved(GREY.convert("1"), "BMP"),
    "1 TIFF, fax": lambda: saved(GREY.convert("1"), "TIFF", compression="group4"),
    "L PNG": lambda: saved(GREY, "PNG"),
    "L JPEG": lambda: saved(GREY, "JPEG"),
    "LA PNG": lambda: saved(GREY.convert("LA"), "PNG"),
    "P PNG": lambda: saved(GREY.convert("P"), "PNG"),
    "P PNG, one transparent color": lambda: saved(GREY.convert("P"), "PNG", transparency=7),
    "P PNG, transparent bytes": lambda: saved(GREY.convert("P"), "PNG", transparency=bytes([255, *range(255)])),
    "RGBA PNG": lambda: saved(GREY.convert("RGBA"), "PNG"),
    "RGBA WEBP": lambda: saved(GREY.convert("RGBA"), "WEBP", lossless=True),
    "RGBA TIFF": lambda: saved(GREY.convert("RGBA"), "TIFF"),
    "CMYK JPEG": lambda: saved(GREY.convert("RGB").convert("CMYK"), "JPEG"),
    "CMYK TIFF": lambda: saved(GREY.convert("RGB").convert("CMYK"), "TIFF"),
    "RGB TIFF, LZW": lambda: saved(GREY.convert("RGB"), "TIFF", compression="tiff_lzw"),
    "I;16 PNG": lambda: saved(Image.fromarray(HALVES.astype(np.uint16) * 257), "PNG"),
    "I;16 TIFF": lambda: saved(Image.fromarray(HALVES.astype(np.uint16) * 257), "TIFF"),
    "16 bit RGB PNG": lambda: png(200, 100, DEEP_ROW * 100, depth=16),
    "progressive JPEG": lambda: saved(GREY, "JPEG", progressive=True),
    "a phone's JPEG with a second picture": lambda: saved(
        GREY.convert("RGB"), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9), "red")]
    ),
}


@pytest.mark.parametrize("spec", [SQUASH, WIDE])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_decoded(mode: str, spec: ImageInput) -> None:
    pixels = look(MODES[mode](), spec)
    middle = spec.width // 2
    assert pixels[:, : middle - 4].mean() < 4, "the left half is black"
    assert pixels[:, middle + 4 :].mean() > 251, "the right half is white"


# What a camera stores, for each value of EXIF's Orientation, when the scene is ``u``.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.swapaxes(0, 1),
    6: lambda u: np.rot90(u, 1),
    7: lambda u: u[::-1, ::-1].swapaxes(0, 1),
    8: lambda u: np.rot90(u, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("spec", [CENTER, SQUASH, WIDE])
@pytest.mark.parametrize("orientation", [*STORED, 0, 9])
def test_a_photo_is_upright(orientation: int, spec: ImageInput, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    faithful: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    stored = np.ascontiguousarray(STORED.get(orientation, STORED[1])(picture()))
    upright = look(saved(picture(), "PNG"), spec)
    assert difference(look(saved(stored, kind, exif=exif, **faithful.get(kind, {})), spec), upright) < 2.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"garbage, no TIFF", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", b""])
def test_damaged_exif_does_not_spoil_a_photo(kind: str, exif: bytes) -> None:
    plain = look(saved(picture(), kind))
    assert difference(look(saved(picture(), kind, exif=b"Exif\0\0" + exif)), plain) == 0


@pytest.mark.parametrize("size", [(1600, 1200), (1201, 1599), (640, 480), (3000, 300)])
@pytest.mark.parametrize("spec", [CENTER, SQUASH, WIDE])
def test_decoding_at_a_fraction_changes_nearly_nothing(spec: ImageInput, size: tuple[int, int]) -> None:
    jpeg = saved(picture(*size), "JPEG", quality=92)
    with Image.open(io.BytesIO(jpeg)) as whole:
        fully = saved(whole, "PNG", compress_level=1)
    assert difference(look(jpeg, spec), look(fully, spec)) < 2.0


@pytest.mark.parametrize("size", [(320, 240), (241, 333), (64, 64), (50, 20), (999, 65)])
def test_the_centre_crop_is_the_reference_recipe(size: tuple[int, int]) -> None:
    """EfficientNet's evaluation: a centre square of size / (size + 32) of the shorter side, then bicubic."""
    image = Image.fromarray(picture(*size))
    side = int(64 / (64 + 32) * min(size))
    left, top = (size[0] - side + 1) // 2, (size[1] - side + 1) // 2
    square = image.crop((left, top, left + side, top + side))
    reference = np.asarray(square.resize((64, 64), Image.Resampling.BICUBIC))
    assert difference(look(saved(image, "PNG"), CENTER), reference) < 1.0


# --- what is transparent, grey, letterboxed ----------------------------------------------------------------------


def drawing(*, mode: str = "RGBA") -> Image.Image:
    """A black stroke on a canvas that is transparent elsewhere, and red where nobody sees it."""
    pixels = np.zeros((280, 280, 4), dtype=np.uint8)
    pixels[..., 0] = 255
    pixels[:, 120:160] = (0, 0, 0, 255)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_stands_on_white(kind: str) -> None:
    faithful: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = saved(drawing(), kind, **faithful)
    grey = look(data, GREY_INPUT)[..., 0]
    assert grey[:, 13:15].max() == 0
    assert grey[:, [*range(11), *range(17, 28)]].min() == 255
    assert np.array_equal(look(data, ImageInput("image", 28, 28, "squash"))[..., 1], grey)


@pytest.mark.parametrize("kind", ["LA PNG", "P PNG", "RGB PNG", "P GIF", "1 PNG"])
def test_transparency_has_many_forms(kind: str) -> None:
    mode = kind.split()[0]
    transparent: dict[str, Any] = {"RGB": (255, 0, 0), "1": 0}
    options = {"transparency": transparent[mode]} if mode in transparent else {}
    image = drawing(mode="RGBA" if mode == "P" else mode)
    if mode == "1":
        image = Image.new("1", (280, 280))
    elif mode == "RGB":
        image = Image.fromarray(np.asarray(drawing())[..., :3])
    elif kind == "P PNG":
        image = image.quantize(8)
    grey = look(saved(image, kind.split()[1], **options), GREY_INPUT)[..., 0]
    assert grey[:, :11].min() == 255
    assert mode == "1" or grey[:, 13:15].max() == 0


def test_half_transparent_is_half_white() -> None:
    image = Image.new("RGBA", (50, 50), (100, 0, 0, 128))
    assert np.abs(look(saved(image, "PNG")).astype(int) - (177, 127, 127)).max() <= 1


@pytest.mark.parametrize("kind", FORMATS)
def test_grey_is_the_luminance_of_the_colors(kind: str) -> None:
    spec = ImageInput("image", 48, 64, "squash", channels=1)
    grey = look(saved(picture(), kind), spec)[..., 0]
    reference = np.asarray(Image.fromarray(look(saved(picture(), "BMP"))).convert("L"))
    assert difference(grey, reference) <= {"JPEG": 2.0, "WEBP": 3.0, "GIF": 9.0}.get(kind, 0.6)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_grey(mode: str) -> None:
    pixels = look(MODES[mode](), ImageInput("image", 48, 64, "squash", channels=1))
    assert pixels[:, :28].mean() < 4
    assert pixels[:, 36:].mean() > 251


@pytest.mark.parametrize("fill", [0, 114, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_letterboxed_picture_keeps_its_proportions(fill: int, channels: Any) -> None:
    data = saved(Image.new("RGB", (200, 50), (10, 10, 10)), "PNG")
    pixels = look(data, ImageInput("image", 60, 100, "letterbox", channels=channels, fill=fill))
    assert (pixels[18:42] == 10).all(), "60 / 4 rows of picture, 25 of 60, in the middle"
    assert (pixels[:17] == fill).all()
    assert (pixels[42:] == fill).all()
    assert framed(data, ImageInput("image", 60, 100, "letterbox")) == Frame(200, 50, 0, -34, 200, 86)


def test_nearest_invents_no_color() -> None:
    colors = np.random.default_rng(1).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    pixels = look(saved(colors, "PNG"), ImageInput("image", 90, 110, "squash", resample="nearest"))
    assert np.array_equal(pixels, np.kron(colors, np.ones((10, 10, 1), dtype=np.uint8)))


# --- what part of the picture a model sees -----------------------------------------------------------------------


def slopes(width: int, height: int) -> Pixels:
    """Red tells how far right a pixel is, green how far down."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    return np.stack([255 * x / width, 255 * y / height, 0 * x], axis=2).astype(np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("spec", [CENTER, SQUASH, WIDE, LETTER, TALL])
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("size", [(640, 480), (301, 1203), (90, 45)])
def test_the_frame_says_where_each_pixel_is_from(
    size: tuple[int, int], orientation: int, spec: ImageInput, kind: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](slopes(*size)))
    faithful: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    pixels, frame = decode(saved(stored, kind, exif=exif, **faithful), spec, max_pixels=MILLIONS)
    assert (frame.width, frame.height) == size
    x = frame.left + (np.arange(spec.width) + 0.5) * (frame.right - frame.left) / spec.width
    y = frame.top + (np.arange(spec.height) + 0.5) * (frame.bottom - frame.top) / spec.height
    step_x, step_y = (frame.right - frame.left) / spec.width, (frame.bottom - frame.top) / spec.height
    within_x, within_y = (x > step_x) & (x < size[0] - step_x), (y > step_y) & (y < size[1] - step_y)
    seen = pixels[within_y][:, within_x].astype(float)
    assert np.abs(seen[..., 0] - 255 * x[within_x] / size[0]).mean() < 2
    assert np.abs(seen[..., 1] - 255 * y[within_y][:, np.newaxis] / size[1]).mean() < 2


def test_a_frame_of_a_squashed_picture_is_all_of_it() -> None:
    for kind in FORMATS:
        assert framed(saved(picture(1001, 503), kind), SQUASH) == Frame(1001, 503, 0, 0, 1001, 503)


# --- boxes drawn into a picture ----------------------------------------------------------------------------------


def drawn(image: Image.Image | Pixels, *predictions: dict[str, Any], kind: str = "PNG", **options: Any) -> Pixels:
    jpeg = annotate(saved(image, kind, **options), predictions, max_pixels=MILLIONS)
    with Image.open(io.BytesIO(jpeg)) as opened:
        assert opened.format == "JPEG"
        return np.asarray(opened)


def found(label: str, *box: float, index: int = 3, probability: float = 0.9) -> dict[str, Any]:
    return {"label": label, "index": index, "probability": probability, "box": list(box)}


GROUND = Image.new("RGB", (400, 300), (128, 128, 128))


def changed(pixels: Pixels) -> npt.NDArray[np.bool_]:
    marks: npt.NDArray[np.bool_] = np.abs(pixels.astype(int) - 128).max(axis=2) > 40
    return marks


def test_a_box_is_drawn_where_it_is() -> None:
    marks = changed(drawn(GROUND, found("cat", 100, 120, 300, 250)))
    assert marks[125:245, 100].all()
    assert marks[125:245, 300].all()
    assert marks[120, 105:295].all()
    assert marks[250, 105:295].all()
    assert not marks[160:240, 110:290].any(), "nothing inside"
    assert not marks[:, :90].any()
    assert not marks[:90].any()
    assert not marks[260:].any()


def test_a_name_is_written_above_its_box_or_inside_the_picture() -> None:
    assert changed(drawn(GROUND, found("cat", 100, 120, 300, 250)))[104:119, 105:130].mean() > 0.5
    assert changed(drawn(GROUND, found("cat", 0, 0, 399, 299)))[2:12, 5:30].mean() > 0.5


def test_classes_have_colors_and_what_has_no_box_is_left_out() -> None:
    one, other = (drawn(GROUND, found("x", 50, 100, 150, 200, index=index))[150, 50] for index in (1, 2))
    assert np.abs(one.astype(int) - other).max() > 100
    plain = {"label": "cat", "index": 1, "probability": 0.5}
    assert not changed(drawn(GROUND, plain)).any()
    assert not changed(drawn(GROUND)).any()


@pytest.mark.parametrize("orientation", STORED)
def test_a_drawn_picture_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](picture()))
    pixels = drawn(stored, found("cat", 200, 100, 300, 200), exif=exif)
    assert difference(pixels[:90], picture()[:90]) < 4
    assert difference(pixels[110:190, 210:290], picture()[110:190, 210:290]) < 4


@pytest.mark.parametrize("label", ["Käse", "猫", "", "a\nb\x00c", "💥" * 500, "‮abc", "x" * 10_000, "ß"])
def test_any_name_can_be_drawn(label: str) -> None:
    assert changed(drawn(GROUND, found(label, 100, 120, 300, 250)))[104:119, 105:130].any()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), max_size=6),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from(["RGB", "L", "P", "RGBA", "1", "CMYK"]),
)
def test_any_box_can_be_drawn_into_any_picture(boxes: list[list[float]], size: tuple[int, int], mode: str) -> None:
    image = Image.new(mode, size)
    pixels = drawn(image, *(found("cat", *box) for box in boxes), kind="TIFF" if mode == "CMYK" else "PNG")
    height, width, channels = pixels.shape
    assert (height % size[1], width % size[0], channels) == (0, 0, 3)
    assert height // size[1] == width // size[0]


@pytest.mark.parametrize(("size", "factor"), [((64, 48), 5), ((1, 1), 240), ((1, 65_500), 1), ((240, 240), 1)])
def test_a_picture_too_small_for_letters_is_enlarged(size: tuple[int, int], factor: int) -> None:
    pixels = drawn(Image.new("RGB", size, (128, 128, 128)), found("cat", 0, 0, *size))
    assert pixels.shape == (factor * size[1], factor * size[0], 3)
    assert changed(pixels)[-factor:].any()


def test_what_decode_refuses_is_not_drawn_into_either() -> None:
    for data, error in ((b"text", UnsupportedImage), (saved(picture(), "PNG")[:900], InvalidImage)):
        with pytest.raises(error):
            annotate(data, [], max_pixels=MILLIONS)
    with pytest.raises(TooManyPixels):
        annotate(saved(picture(), "PNG"), [], max_pixels=1000)
    with pytest.raises(TooManyPixels, match="side of over 65500"):
        annotate(saved(Image.new("1", (70_000, 2)), "PNG"), [], max_pixels=MILLIONS)


# --- bombs, damage and strangers -----------------------------------------------------------------------------------


def claiming(data: bytes, kind: str, width: int, height: int) -> bytes:
    """The file with other dimensions in its header."""
    if kind == "JPEG":
        at = data.index(b"\xff\xc2") + 5
        return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
    if kind == "GIF":
        return data[:6] + struct.pack("<HH", width, height) + data[10:]
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def progressive() -> bytes:
    return saved(picture(), "JPEG", progressive=True)


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG, 2500 megapixels": lambda: png(50_000, 50_000, bytes(1 << 20)),
    "PNG, just over": lambda: png(8000, 5001, bytes(1 << 20)),
    "PNG, 1 x 2^31-1": lambda: png(1, 2**31 - 1, b""),
    "progressive JPEG, 200 megapixels": lambda: claiming(progressive(), "JPEG", 20_000, 10_000),
    "progressive JPEG, 81 megapixels": lambda: claiming(progressive(), "JPEG", 9000, 9000),
    "JPEG, 65535 x 65535": lambda: claiming(progressive(), "JPEG", 65_535, 65_535),
    "GIF, 65535 x 65535": lambda: claiming(saved(picture(), "GIF"), "GIF", 65_535, 65_535),
    "BMP, 30000 x 30000": lambda: claiming(saved(picture(), "BMP"), "BMP", 30_000, 30_000),
    "TIFF, 80 megapixels": lambda: saved(Image.new("1", (80_000, 1000)), "TIFF", compression="group4"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(bomb: str) -> None:
    data = BOMBS[bomb]()
    assert len(data) < 2_000_000
    started = time.perf_counter()
    with pytest.raises(TooManyPixels):
        decode(data, CENTER, max_pixels=MILLIONS)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(("limit", "accepted"), [(320 * 240, True), (320 * 240 - 1, False)])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_limit_is_exact(kind: str, limit: int, accepted: bool) -> None:
    data = saved(picture(), kind)
    if accepted:
        assert decode(data, SQUASH, max_pixels=limit)[0].shape == (48, 64, 3)
    else:
        with pytest.raises(TooManyPixels, match=f"320 x 240 pixels; {limit} are accepted"):
            decode(data, SQUASH, max_pixels=limit)


@pytest.mark.parametrize("part", [0.5, 0.8])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_short_is_invalid(kind: str, part: float) -> None:
    data = saved(picture(), kind)
    with pytest.raises(InvalidImage) as caught:
        decode(data[: int(part * len(data))], SQUASH, max_pixels=MILLIONS)
    assert type(caught.value) is InvalidImage


STRANGERS = {
    "nothing": b"",
    "text": b"just some text, long enough to look at " * 10,
    "HTML": b"<!doctype html><html><body><img src='x'></body></html>",
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "MP4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100),
    "zeros": bytes(1000),
    "a JPEG's first bytes": b"\xff\xd8\xff\xe0",
}


@pytest.mark.parametrize("stranger", [*STRANGERS, "ICO", "PPM", "TGA", "PCX", "JPEG2000", "AVIF", "ICNS"])
def test_what_is_no_photo_is_unsupported(stranger: str) -> None:
    data = STRANGERS.get(stranger) if stranger in STRANGERS else saved(picture(64, 64), stranger)
    with pytest.raises(UnsupportedImage):
        decode(data or b"", SQUASH, max_pixels=MILLIONS)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (60, 40), color) for color in ("red", "blue", "green")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert difference(look(data), np.full((48, 64, 3), (255, 0, 0), dtype=np.uint8)) < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (7, 5000)])
@pytest.mark.parametrize("spec", [CENTER, SQUASH, WIDE])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_thinnest_pictures_are_decoded(kind: str, spec: ImageInput, size: tuple[int, int]) -> None:
    pixels = look(saved(Image.new("RGB", size, (200, 100, 50)), kind), spec)
    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 6


@cache
def small_files() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(picture(40, 30))
    plain = [saved(image, kind) for kind in FORMATS]
    tagged = [saved(image, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")]
    return [*plain, *tagged, saved(image, "TIFF", compression="tiff_lzw"), saved(image.convert("P"), "PNG")]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
    st.sampled_from([CENTER, SQUASH]),
)
def test_no_damage_does_worse_than_its_error(
    number: int, changes: list[tuple[float, int]], kept: float, spec: ImageInput
) -> None:
    data = bytearray(small_files()[number])
    for where, value in changes:
        data[int(where**2 * len(data))] = value  # more often near the front, where the headers are
    with contextlib.suppress(UnsupportedImage, InvalidImage):
        pixels, _ = decode(bytes(data if kept > 0.5 else data[: int(2 * kept * len(data))]), spec, max_pixels=10**6)
        assert pixels.shape == (spec.height, spec.width, 3)
