"""From the bytes of a photo to a model's input: the one file that knows Pillow.

Whatever a header claims is checked before anything is decoded. JPEGs are decoded at a fraction of their size
where that still leaves enough pixels (libjpeg's scaled inverse transform, Pillow's draft mode).
"""

from __future__ import annotations

import io
import math
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
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if image.format != "GIF" else 1
    height, width = (spec.width, spec.height) if orientation in _SIDEWAYS else (spec.height, spec.width)
    if spec.crop == "center":
        keep = min(image.width / width, image.height / height)
        keep *= min(width / (width + spec.margin), height / (height + spec.margin))
    else:
        keep = 0.0
    if image.format == "JPEG":
        _draft(image, width, height, keep)
        if keep:
            keep = min(image.width / width, image.height / height)
            keep *= min(width / (width + spec.margin), height / (height + spec.margin))
    if image.mode.startswith("I"):  # 16 bits a channel, grey
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    elif image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    box = None
    if keep:
        side_x, side_y = math.floor(keep * width), math.floor(keep * height)
        left, top = round((image.width - side_x) / 2), round((image.height - side_y) / 2)
        box = (left, top, left + max(1, side_x), top + max(1, side_y))
    image = image.resize((width, height), _RESAMPLE[spec.resample], box=box)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image)


def _draft(image: Image.Image, width: int, height: int, keep: float) -> None:
    """Let libjpeg decode at 1/2, 1/4 or 1/8 when the part that is kept still has the model's size."""
    if keep:
        image.draft("RGB", (math.ceil(image.width / keep), math.ceil(image.height / keep)))
    else:
        image.draft("RGB", (width, height))
