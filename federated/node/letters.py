"""What a node must not lose: the message it works on, its reply, what it answered, its number.

Files in a folder beside the learner's state, each written whole or not at all. A device that loses power while it
learns takes the message up again; one that loses its link delivers the reply when the link is back. The last reply
stays after its delivery, for a server that did not get it and asks again.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np

from edgessl.device.storage import strictjson, tensors
from edgessl.device.storage.files import write_atomically
from edgessl.errors import FormatError, StateError
from federated.compat.fleet import Packed

REMEMBERED = 256  # answered messages
_MESSAGE, _REPLY, _DELIVERED, _ANSWERED, _NUMBER = "message", "reply", "delivered", "answered.json", "number.json"


class Letters:
    """The folder; StateError when the disk refuses. A damaged file is set aside, never fatal: a round is lost."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.problems = folder, list[str]()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(error) from None
        self._answered = self._load_answered()
        if (kept := self.reply()) is not None and not self.answered(kept[0].reply_to):
            self._note_answered(kept[0].reply_to)  # power went between the two files

    def answered(self, name: str) -> bool:
        """Whether the message with that name had its reply made here: it came again, or was replayed."""
        return name in self._answered

    def number(self, server: str) -> int | None:
        """The number of this node at `server`, if it was there before."""
        try:
            top = strictjson.Node(strictjson.parse((self.folder / _NUMBER).read_bytes()), _NUMBER, FormatError)
            return top.key("node").integer(1, (1 << 64) - 1) if top.key("server").text() == server else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, FormatError) as error:
            self._set_aside(_NUMBER, error)
            return None

    def keep_number(self, server: str, node: int) -> None:
        """Keep the number that `server` gave this node."""
        self._replace(_NUMBER, [json.dumps({"server": server, "node": node}).encode()])

    def keep_message(self, name: str, objects: dict[str, bytes], expires: float) -> None:
        """Keep a message until `keep_reply`."""
        self._write(_MESSAGE, objects, {"name": name, "expires": repr(expires)})

    def message(self) -> tuple[str, dict[str, bytes], float] | None:
        """The kept message: its name, its objects, when it expires."""
        if (found := self._read(_MESSAGE, "name", "expires")) is None:
            return None
        objects, metadata = found
        return metadata["name"], objects, float(metadata["expires"])

    def drop_message(self) -> None:
        """Forget the kept message."""
        self._unlink(_MESSAGE)

    def keep_reply(self, reply: Packed, seconds: float, *others: str) -> None:
        """Keep a reply until `drop_reply`; the message it answers, and `others` of the same meaning, are done with."""
        parts = {f"object.{name}": content for name, content in reply.objects.items()}
        parts |= {"message": reply.message, "tree": reply.tree}
        numbers = {"run": str(reply.run_id), "expires": repr(reply.expires), "seconds": repr(seconds)}
        self._write(_REPLY, parts, numbers | {"reply_to": " ".join((reply.reply_to, *others))})
        self._note_answered(reply.reply_to, *others)
        self.drop_message()

    def reply(self) -> tuple[Packed, float] | None:
        """The kept reply and the seconds it took to make."""
        return found[:2] if (found := self._load_reply(_REPLY)) is not None else None

    def drop_reply(self) -> None:
        """The kept reply was delivered, or nobody waits for it."""
        with contextlib.suppress(OSError):
            (self.folder / _REPLY).replace(self.folder / _DELIVERED)

    def delivered(self, message: str) -> tuple[Packed, list[str]] | None:
        """The reply to the message with that name, if it is the one that was dropped last, and all that it answers."""
        found = self._load_reply(_DELIVERED)
        return (found[0], found[2]) if found is not None and message in found[2] else None

    def _load_reply(self, file: str) -> tuple[Packed, float, list[str]] | None:
        if (found := self._read(file, "run", "expires", "seconds", "reply_to")) is None:
            return None
        parts, metadata = found
        try:
            message, tree = parts.pop("message"), parts.pop("tree")
            run, expires = int(metadata["run"]), float(metadata["expires"])
            objects = {name.removeprefix("object."): content for name, content in parts.items()}
            names = metadata["reply_to"].split(" ")
            return Packed(run, names[0], expires, message, tree, objects), float(metadata["seconds"]), names
        except (KeyError, ValueError) as error:
            self._set_aside(file, error)
            return None

    def _note_answered(self, *names: str) -> None:
        self._answered = [*self._answered, *names][-REMEMBERED:]
        self._replace(_ANSWERED, [json.dumps(self._answered).encode()])

    def _load_answered(self) -> list[str]:
        try:
            found = strictjson.parse((self.folder / _ANSWERED).read_bytes())
            return [node.text() for node in strictjson.Node(found, "answered", FormatError).items(REMEMBERED)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, FormatError) as error:
            self._set_aside(_ANSWERED, error)
            return []

    def _write(self, name: str, parts: dict[str, bytes], metadata: dict[str, str]) -> None:
        arrays = {key: np.frombuffer(content, np.uint8) for key, content in parts.items()}
        self._replace(name, tensors.pieces(arrays, metadata))

    def _replace(self, name: str, parts: list[memoryview] | list[bytes]) -> None:
        try:
            write_atomically(self.folder / name, *parts)
        except OSError as error:
            raise self._failed(error) from None

    def _read(self, name: str, *keys: str) -> tuple[dict[str, bytes], dict[str, str]] | None:
        try:
            arrays, metadata = tensors.loads((self.folder / name).read_bytes())
            if sorted(metadata) != sorted(keys):
                raise FormatError(f"expected {sorted(keys)}, found {sorted(metadata)}")
            return {key: array.tobytes() for key, array in arrays.items()}, metadata
        except FileNotFoundError:
            return None
        except (OSError, FormatError) as error:
            self._set_aside(name, error)
            return None

    def _set_aside(self, name: str, error: Exception) -> None:
        self.problems.append(f"{self.folder / name}: {error}; set aside as {name}.damaged")
        with contextlib.suppress(OSError):
            (self.folder / name).replace(self.folder / f"{name}.damaged")

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.folder / name).unlink(missing_ok=True)

    def _failed(self, error: OSError) -> StateError:
        return StateError(f"{self.folder}: {error.strerror or error}; nothing that was kept before is lost")
