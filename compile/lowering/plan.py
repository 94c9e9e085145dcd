"""Where every tensor lies in one workspace, shared by tensors that are never needed at the same time."""

from runtime.abi import aligned


def workspace(
    sizes: dict[str, int], steps: list[tuple[tuple[str, ...], tuple[str, ...]]]
) -> tuple[dict[str, int], int]:
    """Returns the byte offset of each tensor in `sizes`, and the bytes of the whole.

    steps: (names read, names written) in order. A tensor lives from the step that writes it to the last that reads it;
    large ones are placed first, each at the lowest offset where nothing that lives at the same time lies.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, (reads, writes) in enumerate(steps):
        for name in (*reads, *writes):
            first.setdefault(name, index)
            last[name] = index
    placed: dict[str, int] = {}
    for name in sorted(sizes, key=lambda n: (-sizes[n], first[n], n)):
        neighbours = sorted(
            (placed[n], placed[n] + aligned(sizes[n]))
            for n in placed
            if first[n] <= last[name] and first[name] <= last[n]
        )
        offset = 0
        for begin, end in neighbours:
            if offset + sizes[name] <= begin:
                break
            offset = max(offset, end)
        placed[name] = offset
    return placed, max((placed[n] + aligned(sizes[n]) for n in placed), default=0)
