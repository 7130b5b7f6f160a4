"""Clips: frames and sound of a file, and spectrograms as published works compute them. Decoding is PyAV's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import UnknownNameError
from equifuse.extras import require

Wave = NDArray[np.float32]
Image = NDArray[np.uint8]
# What a logarithm is taken of is raised by this.
_FLOOR, _MEL_FLOOR, _TINY = 1e-7, 1e-6, 1e-9
# Frames a second, where a file does not say.
_USUAL_RATE = 25.0


@dataclass(frozen=True)
class Window:
    """A part of a clip, in seconds.

    >>> from equifuse.data.media import Window
    >>> Window(2.0, 5.0).end
    5.0

    Attributes:
        start: where it begins.
        end: where it ends; None for the end of the clip.
    """

    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Sound:
    """How a spectrogram is made of a sound.

    >>> from equifuse.data.media import SOUNDS
    >>> SOUNDS["vggsound"].shape
    (257, 1004)

    Attributes:
        rate: samples a second.
        seconds: length; a shorter sound is repeated, of a longer one the beginning is taken.
        shape: of the spectrogram: frequencies by steps.
        make: gives it of a sound of that length.
    """

    rate: int
    seconds: float
    shape: tuple[int, int]
    make: Callable[[Wave], NDArray[np.floating[Any]]]

    def of(self, wave: Wave) -> NDArray[np.float32]:
        """The spectrogram of a sound ``(n,)``, of any length above 0, at this rate."""
        length = round(self.rate * self.seconds)
        tiled = np.tile(wave, math.ceil(length / len(wave)))[:length]
        return np.ascontiguousarray(self.make(tiled), dtype=np.float32)


def _vggsound(wave: Wave) -> NDArray[np.floating[Any]]:
    """Chen et al. 2020: logarithm of the power by segments of 512 that overlap by 353, each clip standardised."""
    from scipy import signal  # noqa: PLC0415

    _, _, power = signal.spectrogram(wave.clip(-1, 1), 16_000, nperseg=512, noverlap=353)
    return _standardised(np.log(power + _FLOOR))


def _stft(wave: Wave, window: int, hop: int) -> NDArray[np.floating[Any]]:
    """Magnitudes of a centred short-time Fourier transform with a Hann window."""
    padded = np.pad(wave.astype(np.float64), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return np.abs(np.fft.rfft(frames * hann, axis=1)).T


def _log_stft(window: int, hop: int) -> Callable[[Wave], NDArray[np.floating[Any]]]:
    """Peng et al. 2022: logarithm of the magnitudes."""
    return lambda wave: np.log(_stft(wave, window, hop) + _FLOOR)


def mel_filters(bins: int, rate: int, window: int) -> NDArray[np.float64]:
    """Triangles on the mel scale of HTK: ``(bins, window // 2 + 1)``.

    >>> from equifuse.data.media import mel_filters
    >>> filters = mel_filters(128, 16_000, 1024)
    >>> filters.shape, bool((filters.max(axis=1) > 0).all())
    ((128, 513), True)
    """
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bins + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, window // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling))


def _log_mel(wave: Wave) -> NDArray[np.floating[Any]]:
    """128 mel bands, 100 steps a second, each clip standardised."""
    power = _stft(wave, 1024, 160)[:, :800] ** 2
    return _standardised(np.log(mel_filters(128, 16_000, 1024) @ power + _MEL_FLOOR))


def _standardised(x: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return np.asarray((x - x.mean()) / (x.std() + _TINY))


# Name -> spectrogram: of VGGSound's authors; of OGM-GE for VGGSound and for CREMA-D; 128 mel bands as MBT has them.
SOUNDS = {
    "vggsound": Sound(16_000, 10, (257, 1004), _vggsound),
    "ogm": Sound(16_000, 5, (129, 626), _log_stft(256, 128)),
    "cremad": Sound(22_050, 3, (257, 188), _log_stft(512, 353)),
    "mel": Sound(16_000, 8, (128, 800), _log_mel),
}


def sound_of(name: str) -> Sound:
    """A spectrogram by name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in SOUNDS:
        raise UnknownNameError("spectrogram", name, SOUNDS)
    return SOUNDS[name]


def read_sound(path: Path, rate: int, window: Window | None = None) -> Wave | None:
    """The sound of a file, all channels as one, at a rate; None where it has none that can be decoded.

    >>> from pathlib import Path
    >>> from equifuse.data.media import read_sound
    >>> read_sound(Path("nothing.mp4"), 16_000) is None
    True

    Args:
        path: of any file that FFmpeg reads.
        rate: samples a second.
        window: the part; None for all.

    Returns:
        Float32 ``(n,)``; full scale is 1, which the sum of several channels may exceed.

    Raises:
        InputError: the extra ``equifuse[video]`` is not installed.
    """
    av: Any = require("video", "av", "reading clips")
    window = window or Window()
    pieces: list[NDArray[np.float32]] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                return None
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            count = 0
            for frame in container.decode(audio=0):
                some = [part.to_ndarray()[0] for part in resampler.resample(frame)]
                pieces += some
                count += sum(map(len, some))
                if window.end is not None and count >= rate * window.end:
                    break
            pieces += [part.to_ndarray()[0] for part in resampler.resample(None)]
    except (av.FFmpegError, OSError, ValueError):  # what was decoded before still counts
        pass
    wave = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    wave = wave[round(rate * window.start) : None if window.end is None else round(rate * window.end)]
    return np.asarray(wave, dtype=np.float32) if len(wave) and np.isfinite(wave).all() else None


def read_frames(
    path: Path, count: int, size: int, *, stride: int | None = None, window: Window | None = None
) -> Image | None:
    """Frames of a file, scaled by their shorter side and cut to squares; None where none can be decoded.

    >>> from pathlib import Path
    >>> from equifuse.data.media import read_frames
    >>> read_frames(Path("nothing.mp4"), 8, 64) is None
    True

    Args:
        path: of any file that FFmpeg reads.
        count: number of frames ``F``.
        size: pixels of a side ``S``.
        stride: take every so many frames from the beginning, and the last again where they end; None spreads the frames
            evenly: each is in the middle of one of ``F`` equal parts.
        window: the part; None for all.

    Returns:
        Bytes ``(F, 3, S, S)``, red, green and blue.

    Raises:
        InputError: the extra ``equifuse[video]`` is not installed.
    """
    av: Any = require("video", "av", "reading clips")
    window = window or Window()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return None
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or _USUAL_RATE)
            total = sum(packet.size > 0 for packet in container.demux(stream))
    except (av.FFmpegError, OSError, ValueError):
        return None
    first = min(round(rate * window.start), max(total - 1, 0))
    last = total if window.end is None else min(total, max(first + 1, round(rate * window.end)))
    wanted = frame_numbers(last - first, count, stride) + first
    kept: dict[int, Image] = {}
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    kept[number] = _square(frame, size)
                if number >= wanted[-1]:
                    break
    except (av.FFmpegError, OSError, ValueError):  # what was decoded before still counts
        pass
    if not kept:
        return None
    numbers = np.array(sorted(kept))
    nearest = numbers[np.abs(wanted[:, None] - numbers).argmin(1)]
    return np.stack([kept[int(number)] for number in nearest])


def frame_numbers(total: int, count: int, stride: int | None = None) -> NDArray[np.int64]:
    """Which of so many frames are taken, see :func:`read_frames`.

    >>> from equifuse.data.media import frame_numbers
    >>> frame_numbers(75, 3).tolist(), frame_numbers(75, 3, stride=2).tolist(), frame_numbers(2, 3, 1).tolist()
    ([12, 37, 62], [0, 2, 4], [0, 1, 1])
    """
    if stride is not None:
        return np.minimum(np.arange(count) * stride, max(total - 1, 0))
    return ((np.arange(count) + 0.5) * total / count).astype(np.int64)


def _square(frame: Any, size: int) -> Image:
    """A frame as bytes ``(3, size, size)``: scaled by its shorter side, the middle of it."""
    scale = size / min(frame.width, frame.height)
    width, height = max(size, round(frame.width * scale)), max(size, round(frame.height * scale))
    pixels = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    left, top = (width - size) // 2, (height - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size].transpose(2, 0, 1))
