"""Safe reading of files that others wrote, and atomic writing of files that others may be reading.

Standard library only, so that commands that only read records start at once.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO


def printable(text: object) -> str:
    """The text with control characters and undecodable bytes escaped, for terminals and reports."""
    text = str(text)
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is not UTF-8, as os.fsdecode gives it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def in_words(error: OSError) -> str:
    """The file and what is wrong with it, in one line."""
    reason = error.strerror or str(error) or type(error).__name__
    return printable(f"{os.fsdecode(error.filename)}: {reason}" if _is_path(error.filename) else reason)


def _is_path(value: object) -> bool:
    return isinstance(value, (str, bytes, os.PathLike))


def opened(path: str | os.PathLike) -> BinaryIO:
    """A regular file, opened for reading. Refuses anything else: a pipe, for example, would block forever.

    Raises:
        OSError: if there is none, or it cannot be read. It names the file.
    """
    file = open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: if there is none, or it cannot be read. It names the file.
    """
    with opened(path) as file:
        try:
            return file.read()
        except OSError as error:  # as on a network file system
            raise _naming(error, path) from error


def read_json(path: str | os.PathLike, parse: Callable[[bytes], Any] = json.loads) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: if there is none, or it cannot be read.
        ValueError: if it is not JSON. The message is one line.
    """
    try:
        return parse(read_bytes(path))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_object(path: str | os.PathLike) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is none that can be read."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def replacing(path: str | os.PathLike, mode: str = "w", **options: Any) -> Iterator[IO]:
    """A file to write, which replaces `path` atomically once it is complete: a reader sees the old content or the new,
    whatever happens to the writer. `mode` and `options` are those of `open`; text is UTF-8.

    Raises:
        OSError: if it cannot be written. It names `path`, and nothing is left of the new file.
    """
    path = Path(path)
    aside = _aside(path)
    options = options if "b" in mode else {"encoding": "utf-8"} | options
    try:
        with aside.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise _naming(error, path) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write(path: str | os.PathLike, content: str | bytes) -> None:
    """Replace a file, as `replacing` does."""
    with replacing(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)


def try_to_write(path: str | os.PathLike) -> None:
    """Check whether `write` could succeed; the file itself stays as it is.

    Raises:
        OSError: if it could not. It names `path`.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
    aside = _aside(path)
    try:
        aside.open("wb").close()
        aside.unlink()
    except OSError as error:
        raise _naming(error, path) from error


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}.{os.getpid()}")


def _naming(error: OSError, path: str | os.PathLike) -> OSError:
    """The error with the intended file name: an error from a write has none, one on the temporary file has another."""
    return OSError(error.errno, error.strerror or str(error), os.fspath(path))
