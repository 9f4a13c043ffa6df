"""From the bytes of a photo to a model's input, and back to a picture with what was found drawn into it: the one file
that knows Pillow.

Whatever a header claims is checked before anything is decoded. JPEGs are decoded at a fraction of their size
where that still leaves enough pixels (libjpeg's scaled inverse transform, Pillow's draft mode). What is transparent
stands on white, as on a page: the colour of a transparent pixel is whatever the program that saved it left there.
"""

from __future__ import annotations

import colorsys
import io
import math
import struct
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageDraw, ImageFont, UnidentifiedImageError

from shoal.errors import InvalidImage, TooManyPixels, UnsupportedImage
from shoal.wire import Frame, ImageInput

__all__ = ["FORMATS", "Pixels", "annotate", "decode"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

Pixels = npt.NDArray[np.uint8]

Box = tuple[float, float, float, float]

_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# EXIF 2.32, tag Orientation: what undoes each value.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
# The same as mirroring what is stored, and then, sideways, exchanging x and y.
_MIRRORED_X, _MIRRORED_Y = (2, 3, 7, 8), (3, 4, 6, 7)
# What a damaged or hostile file makes Pillow's decoders raise, beside its own errors (all OSError or ValueError).
_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
)


def decode(data: bytes, spec: ImageInput, *, max_pixels: int) -> tuple[Pixels, Frame]:
    """Decode ``data`` to uint8 of shape (spec.height, spec.width, spec.channels), RGB or grey, and say what it shows.

    Raises ``UnsupportedImage`` for anything but the first frame of one of ``FORMATS``, ``TooManyPixels`` when
    its header claims more than ``max_pixels`` (width x height), ``InvalidImage`` when it does not decode.
    """
    with _opened(data, max_pixels) as image:
        return _fit(image, spec)


def pixels_of(data: bytes, *, max_pixels: int) -> int:
    """How many pixels the header of ``data`` claims. Raises as ``decode`` does, but for what only decoding shows."""
    with _opened(data, max_pixels) as image:
        return image.width * image.height


def annotate(data: bytes, predictions: Sequence[Mapping[str, Any]], *, max_pixels: int) -> bytes:
    """The upright picture with the ``box`` and the name of each prediction that has one, as JPEG.

    A picture that is too small for letters is enlarged, by a whole factor. Raises as ``decode`` does, and
    ``TooManyPixels`` for a picture with a side too long for a JPEG.
    """
    with _opened(data, max_pixels) as image:
        if max(image.size) > _LONGEST_JPEG_SIDE:
            raise TooManyPixels(f"The image has a side of over {_LONGEST_JPEG_SIDE} pixels, too long to draw into.")
        image.load()
        orientation = _orientation(image)
        picture = _opaque(_plain(image, 3)).convert("RGB")
        if orientation in _UPRIGHT:
            picture = picture.transpose(_UPRIGHT[orientation])
        factor = max(1, min(math.ceil(_READABLE_SIDE / _side(picture)), _LONGEST_JPEG_SIDE // max(picture.size)))
        if factor > 1:
            picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
        boxed = [{**p, "box": [factor * float(edge) for edge in p["box"]]} for p in predictions if p.get("box")]
        _draw(picture, boxed)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=90, subsampling=0)  # or thin lines lose their colour
        return stream.getvalue()


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our own limits decide; a warning is nobody's to read here
        image = _open(data, max_pixels)
        try:
            yield image
        except _DECODER_ERRORS as error:
            raise InvalidImage(f"The {image.format} image does not decode: it is damaged or cut short.") from error
        finally:
            image.close()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise TooManyPixels from error
    except UnidentifiedImageError as error:
        raise UnsupportedImage from error
    except _DECODER_ERRORS as error:
        raise InvalidImage from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise TooManyPixels(f"The image has {width} x {height} pixels; {max_pixels} are accepted here.")
    return image


def _fit(image: Image.Image, spec: ImageInput) -> tuple[Pixels, Frame]:
    is_jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG followed by others, as phones write
    if not is_jpeg:
        image.load()  # turns a TIFF upright by itself
    orientation = _orientation(image)
    stored = image.size
    sideways = orientation in _SIDEWAYS
    size = _size(stored, (spec.height, spec.width) if sideways else (spec.width, spec.height), spec)
    if is_jpeg:  # decode at 1/2, 1/4 or 1/8 while what is kept still has the model's size
        left, top, right, bottom = _kept(stored, size, spec)
        image.draft(
            "RGB" if spec.channels == 3 else "L",
            (math.ceil(image.width * size[0] / (right - left)), math.ceil(image.height * size[1] / (bottom - top))),
        )
    kept = _kept(image.size, size, spec)
    scale = stored[0] / image.width, stored[1] / image.height
    image = _opaque(_plain(image, spec.channels).resize(size, _RESAMPLE[spec.resample], box=kept))
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    shown = _upright(
        (kept[0] * scale[0], kept[1] * scale[1], kept[2] * scale[0], kept[3] * scale[1]), stored, orientation
    )
    image = image.convert("RGB" if spec.channels == 3 else "L")
    width, height = reversed(stored) if sideways else stored
    pixels = np.asarray(_letterboxed(image, spec)).reshape(spec.height, spec.width, spec.channels)
    return pixels, Frame(width, height, *_reach(shown, image.size, spec))


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """The picture in 8 bits a channel: grey, RGB, or RGBA where something may be transparent."""
    if image.mode.startswith("I"):  # 16 bits a channel, grey
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode == "L" or (image.mode == "RGB" and channels == 3):
        return image
    return image.convert("RGB" if channels == 3 else "L")


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _letterboxed(image: Image.Image, spec: ImageInput) -> Image.Image:
    if image.size == (spec.width, spec.height):
        return image
    ground = Image.new(image.mode, (spec.width, spec.height), (spec.fill,) * spec.channels)
    ground.paste(image, ((spec.width - image.width) // 2, (spec.height - image.height) // 2))
    return ground


def _orientation(image: Image.Image) -> int:
    """EXIF's word for which way is up; damaged EXIF does not spoil a good picture."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DECODER_ERRORS:
        return 1


def _size(stored: tuple[int, int], wanted: tuple[int, int], spec: ImageInput) -> tuple[int, int]:
    """The width and height that the kept part of the picture gets in an input of the wanted ones."""
    if spec.crop != "letterbox":
        return wanted
    scale = min(wanted[0] / stored[0], wanted[1] / stored[1])
    return max(1, round(stored[0] * scale)), max(1, round(stored[1] * scale))


def _kept(picture: tuple[int, int], size: tuple[int, int], spec: ImageInput) -> tuple[int, int, int, int]:
    """The part of the picture that a model of this size sees: left, top, right, bottom.

    The centre crop is EfficientNet's own evaluation crop, to the pixel.
    """
    if spec.crop != "center":
        return 0, 0, *picture
    scale = min(picture[0] / (size[0] + spec.margin), picture[1] / (size[1] + spec.margin))
    side_x, side_y = max(1, int(scale * size[0])), max(1, int(scale * size[1]))
    left, top = (picture[0] - side_x + 1) // 2, (picture[1] - side_y + 1) // 2
    return left, top, left + side_x, top + side_y


def _upright(box: Box, stored: tuple[int, int], orientation: int) -> Box:
    """Where a box of the stored picture is in the upright one."""
    left, top, right, bottom = box
    if orientation in _MIRRORED_X:
        left, right = stored[0] - right, stored[0] - left
    if orientation in _MIRRORED_Y:
        top, bottom = stored[1] - bottom, stored[1] - top
    return (top, left, bottom, right) if orientation in _SIDEWAYS else (left, top, right, bottom)


def _reach(shown: Box, size: tuple[int, int], spec: ImageInput) -> Box:
    """What the whole input covers, when the shown part of the picture lies in the middle of it in this size."""
    x, y = (shown[2] - shown[0]) / size[0], (shown[3] - shown[1]) / size[1]
    left = shown[0] - (spec.width - size[0]) // 2 * x
    top = shown[1] - (spec.height - size[1]) // 2 * y
    return left, top, left + spec.width * x, top + spec.height * y


# --- drawing -----------------------------------------------------------------------------------------------------

_LONGEST_JPEG_SIDE = 65_500  # libjpeg's own limit
_LONGEST_NAME = 40
_READABLE_SIDE = 240
_GOLDEN_RATIO = 0.618033988749895
# Pillow's own font has no letters beyond ASCII; these are the common ones that have no plain letter inside.
_PLAIN_LETTERS = str.maketrans({"ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d"})


def _draw(picture: Image.Image, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Draw boxes, then names; the more probable over the less."""
    draw = ImageDraw.Draw(picture)
    side = _side(picture)
    line = max(1, round(side / 250))
    font = ImageFont.load_default(max(12, round(side / 30)))
    ascending = sorted(predictions, key=lambda p: float(p["probability"]))
    for prediction in ascending:
        left, top, right, bottom = _pixels_of(prediction["box"], picture.size)
        color = _color(prediction["index"])
        draw.rectangle((left, top, right, bottom), outline="black", width=line + max(1, line // 2))
        draw.rectangle((left, top, right, bottom), outline=color, width=line)
    taken: list[Box] = []
    for prediction in reversed(ascending):
        taken.append(_draw_name(draw, font, line, prediction, taken))


def _draw_name(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    line: int,
    prediction: Mapping[str, Any],
    taken: Sequence[Box],
) -> Box:
    """Draw a name at a free corner of its box, inside the picture, and return its place."""
    width, height = draw.im.size
    left, top, right, bottom = _pixels_of(prediction["box"], (width, height))
    text = (
        f"{_ascii(str(prediction['label'])) or '#' + str(prediction['index'])} {float(prediction['probability']):.2f}"
    )
    _, _, text_width, text_height = draw.textbbox((0, 0), text, font=font)
    wide, high = text_width + 2 * line, text_height + 2 * line
    places = []
    for x, y in ((left, top - high), (left, top), (left, bottom), (left, bottom - high), (right - wide, top)):
        x, y = max(0, min(x, width - wide)), max(0, min(y, height - high))
        places.append((x, y, x + wide, y + high))
    place = next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])
    color = _color(prediction["index"])
    draw.rectangle(place, fill=color)
    draw.text((place[0] + line, place[1] + line), text, fill=_contrast(color), font=font)
    return place


def _pixels_of(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box in whole pixels of the picture, never empty."""
    left, right = (max(0, min(round(float(x)), size[0] - 1)) for x in (box[0], box[2]))
    top, bottom = (max(0, min(round(float(y)), size[1] - 1)) for y in (box[1], box[3]))
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _side(picture: Image.Image) -> float:
    """Of the square with as many pixels."""
    return math.sqrt(picture.width * picture.height)


def _color(index: int) -> tuple[int, int, int]:
    """A bright colour for each class, far from that of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1.0, 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _contrast(color: tuple[int, int, int]) -> str:
    red, green, blue = color
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "white"


def _ascii(text: str) -> str:
    """What the font can draw of a name: accents are left out, other strange letters become "?"."""
    letters = unicodedata.normalize("NFKD", text[:_LONGEST_NAME].translate(_PLAIN_LETTERS))
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    shown = "".join(letter if " " <= letter <= "~" else "?" for letter in plain)
    return shown if any(letter.isalnum() for letter in shown) else ""
