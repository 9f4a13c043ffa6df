"""From the bytes of a photo to a model's input: the one file that knows Pillow.

Whatever a header claims is checked before anything is decoded. JPEGs are decoded at a fraction of their size
where that still leaves enough pixels (libjpeg's scaled inverse transform, Pillow's draft mode).
"""

from __future__ import annotations

import io
import math
import struct
import warnings

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from shoal.errors import InvalidImage, TooManyPixels, UnsupportedImage
from shoal.wire import ImageInput

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

Pixels = npt.NDArray[np.uint8]

_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
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


def decode(data: bytes, spec: ImageInput, *, max_pixels: int) -> Pixels:
    """Decode ``data`` to uint8 RGB of shape (spec.height, spec.width, 3).

    Raises ``UnsupportedImage`` for anything but the first frame of one of ``FORMATS``, ``TooManyPixels`` when
    its header claims more than ``max_pixels`` (width x height), ``InvalidImage`` when it does not decode.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our own limits decide; a warning is nobody's to read here
        image = _open(data, max_pixels)
        try:
            return _fit(image, spec)
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


def _fit(image: Image.Image, spec: ImageInput) -> Pixels:
    is_jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG followed by others, as phones write
    if not is_jpeg:
        image.load()  # turns a TIFF upright by itself
    orientation = _orientation(image)
    width, height = (spec.height, spec.width) if orientation in _SIDEWAYS else (spec.width, spec.height)
    if is_jpeg:  # decode at 1/2, 1/4 or 1/8 while what is kept still has the model's size
        left, top, right, bottom = _kept(image, width, height, spec)
        image.draft(
            "RGB",
            (math.ceil(image.width * width / (right - left)), math.ceil(image.height * height / (bottom - top))),
        )
    if image.mode.startswith("I"):  # 16 bits a channel, grey
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    elif image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    image = image.resize((width, height), _RESAMPLE[spec.resample], box=_kept(image, width, height, spec))
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """EXIF's word for which way is up; damaged EXIF does not spoil a good picture."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DECODER_ERRORS:
        return 1


def _kept(image: Image.Image, width: int, height: int, spec: ImageInput) -> tuple[int, int, int, int]:
    """The part of the picture that a model of this width and height sees: left, top, right, bottom.

    The centre crop is EfficientNet's own evaluation crop, to the pixel.
    """
    if spec.crop == "squash":
        return 0, 0, image.width, image.height
    scale = min(image.width / (width + spec.margin), image.height / (height + spec.margin))
    side_x, side_y = max(1, int(scale * width)), max(1, int(scale * height))
    left, top = (image.width - side_x + 1) // 2, (image.height - side_y + 1) // 2
    return left, top, left + side_x, top + side_y
