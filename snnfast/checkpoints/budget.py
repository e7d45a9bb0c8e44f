"""What the file of somebody else may cost to read.

A file of a few bytes can ask for gigabytes, or for ever: a pickle that writes to place 2^28 of its memo, a tensor of 42 GB whose strides are 0, lists
or keys in which each level holds the one below twice, a deflated run of zeros. Each is refused for what it asks, before it gets it:

    the pickle    at most 64 MiB and a million instructions; places of the memo no further than there are instructions; no value of more than a
                  million entries, each counted as often as it is reached; no function that makes much of little
    the archive   no entry within another; unpacked at most 16 times the file, and 64 MiB
    the weights   each stored by itself at most 16 times the file, and 64 MiB: tied weights are stored once
    a network     no more blocks than the file has tensors
"""

import os
import pickletools
import zipfile

from snnfast.system.files import check_regular
from snnfast.system.memory import told
from snnfast.system.text import plain

PICKLE = 64 << 20
INSTRUCTIONS = 1_000_000
ENTRIES = 1_000_000
TIMES = 16  # the file
NAME = 80  # characters of a name in an error
MEMO = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
GET = {"GET", "BINGET", "LONG_BINGET"}
FILL = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}  # change what lies below on the stack
# Safe loading allows these functions: one makes as many bytes as a number says, of the other these codecs take time that grows with the square.
LARGE, SLOW = {"builtins bytearray", "__builtin__ bytearray"}, {"punycode", "idna"}


class Refused(ValueError):
    """A file asks for more than its size allows."""


def check_archive(path: str | os.PathLike) -> None:
    """Refuses a file of torch.save that asks for more than its size allows, before anything of it is read.

    Raises:
        Refused: what it asks for, and what is allowed.
    """
    check_regular(path)
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # as torch decides
        file.seek(0)
        some = _Some(file, path)
        for _ in range(0 if zipped else 5):  # files of torch before 1.6: some pickles, then the numbers
            if not _check_pickle(some, path, strict=False):
                return
    if not zipped or not zipfile.is_zipfile(path):
        return
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(e.compress_size for e in entries) > size:
            raise Refused(f"{path} is refused: entries of its archive lie within each other")
        unpacked = sum(e.file_size for e in entries)
        if unpacked > TIMES * size + PICKLE:
            raise Refused(f"{path} is refused: its {told(size)} unpack to {told(unpacked)}; at most {TIMES} times its size is read")
        for entry in entries:
            if entry.filename.lower().rsplit("/", 1)[-1] == "data.pkl":  # torch does not tell large letters from small ones
                if entry.file_size > PICKLE:
                    raise Refused(f"{path} is refused: its pickle has {told(entry.file_size)}, at most {told(PICKLE)} are read")
                with archive.open(entry) as file:
                    _check_pickle(file, path)


class _Some:
    """A file of which no more than a pickle may hold is read."""

    def __init__(self, file, path):
        self.file, self.path, self.left = file, path, PICKLE

    def _counted(self, data, asked):
        self.left -= len(data)
        if self.left < 0 or asked > PICKLE:
            raise Refused(f"{self.path} is refused: its pickles have more than {told(PICKLE)}, the most that is read")
        return data

    def read(self, many):
        return self._counted(self.file.read(min(many, self.left + 1)), many)

    def readline(self):
        return self._counted(self.file.readline(self.left + 1), 0)

    def tell(self):
        return self.file.tell()


def _check_pickle(file, path, strict=True):
    """Reads the instructions of one pickle without following them. Returns whether there was one."""
    many, sizes, encodes = 0, _Sizes(), False
    try:
        for many, (instruction, argument, _) in enumerate(pickletools.genops(file), 1):
            name = instruction.name
            if many > INSTRUCTIONS:
                raise Refused(f"{path} is refused: its pickle has more than {INSTRUCTIONS} instructions")
            if name in MEMO and argument is not None and argument > many + 256:
                raise Refused(f"{path} is refused: its pickle writes to place {argument} of its memo after {many} instructions")
            encodes |= name == "GLOBAL" and argument == "_codecs encode"
            if (name == "GLOBAL" and argument in LARGE) or (encodes and argument in SLOW):
                raise Refused(f"{path} is refused: its pickle calls {argument}, which makes much of little")
            if sizes.after(name, argument) > ENTRIES:
                raise Refused(f"{path} is refused: it holds more than {ENTRIES} entries, counted as often as they are reached")
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError):
        if strict:
            raise ValueError("its pickle cannot be read") from None
        return False
    return many > 0


def _plan(instruction):
    """(how many values it takes off the stack, without what stands above a mark; whether it takes that too; how many it leaves)."""
    before, marked = instruction.stack_before, pickletools.markobject in instruction.stack_before
    return before.index(pickletools.markobject) if marked else len(before), marked, len(instruction.stack_after)


PLANS = {instruction.name: _plan(instruction) for instruction in pickletools.opcodes}
CONSTANTS = {name for name, plan in PLANS.items() if plan == (0, False, 1)} - GET - {"MARK"}
ONE = [1]


class _Sizes:
    """The stack of a pickle's machine with a size in place of each value: entries, each counted as often as it is reached."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}  # cells of one number: a list grows after it went into the memo

    def after(self, name, argument):
        """Does one instruction; the size of what is on top then."""
        stack = self.stack
        if name in CONSTANTS:
            stack.append([1] if name.startswith("EMPTY") else ONE)
            return 1
        if name in MEMO:
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in GET:
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "POP" and self.marks and self.marks[-1] == len(stack):
            self.marks.pop()
        else:
            below, marked, leaves = PLANS[name]
            first = (self.marks.pop() if marked else len(stack)) - below
            if first < 0:
                raise IndexError("an empty stack")
            taken = stack[first:]
            del stack[first:]
            total = min(1 + sum(cell[0] for cell in taken), ENTRIES + 1)
            if name in FILL:
                cell = [1] if taken[0] is ONE else taken[0]  # ONE stands for every constant
                cell[0] = total
                stack.append(cell)
            else:
                stack += taken * 2 if name == "DUP" else [[total] for _ in range(leaves)]
        return stack[-1][0] if stack else 0


def check_entries(content: object, path: str | os.PathLike) -> None:
    """Refuses what was read where it holds more than ENTRIES, each counted as often as it is reached: lists that share lists grow without a limit.

    Raises:
        Refused: it does, or it holds itself.
    """
    sizes: dict[int, int] = {}

    def size(value):
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set, frozenset)) else None
        if inside is None:
            return 1
        if id(value) in sizes:
            return sizes[id(value)]
        sizes[id(value)] = ENTRIES + 1  # of one that holds itself
        sizes[id(value)] = min(1 + sum(map(size, inside)), ENTRIES + 1)
        return sizes[id(value)]

    try:
        many = size(content)
    except RecursionError:
        many = ENTRIES + 1
    if many > ENTRIES:
        raise Refused(f"{path} is refused: it holds more than {ENTRIES} entries, counted as often as they are reached, or lies too deep")


def check_weights(state: dict, path: str | os.PathLike) -> None:
    """Refuses weights that would take more memory than the file's size allows when each is stored by itself, as a network stores them.

    Raises:
        Refused: the entry, what it asks for, and what is allowed.
    """
    allowed, total = TIMES * os.path.getsize(path) + PICKLE, 0
    for name, tensor in state.items():
        size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if size > max(stored, allowed):
            shape = tuple(tensor.shape)
            raise Refused(
                f"{path} is refused: {plain(name, NAME)} of shape {shape} takes {told(size)}, and the file holds {told(stored)} of it"
            )
        total += size
        if total > allowed:
            raise Refused(f"{path} is refused: its tensors take more than {told(allowed)} when each is stored by itself")


def check_network(config: dict, state: dict, path: str | os.PathLike) -> None:
    """Refuses a configuration with more blocks than the file has tensors, or with numbers beyond 2^24, before the network is built."""
    for name, value in config.items():
        for number in value if isinstance(value, (list, tuple)) else (value,):
            whole = isinstance(number, int) and not isinstance(number, bool)
            if whole and abs(number) > 1 << 24:
                raise Refused(f"{path} is refused: {plain(name, NAME)} is {plain(number, NAME)}; at most 2^24")
            if name in ("depth", "depths") and whole and number > len(state):
                raise Refused(f"{path} is refused: {name} is {plain(value, NAME)}, and it holds {len(state)} tensors")


def check_activations(activations: dict, path: str | os.PathLike) -> None:
    """Refuses activations with numbers beyond 2^24, before any is made."""
    for name, given in activations.items():
        for number in given.values():
            if isinstance(number, int) and abs(number) > 1 << 24:
                raise Refused(f"{path} is refused: {plain(name, NAME)} has the number {plain(number, NAME)}; at most 2^24")
