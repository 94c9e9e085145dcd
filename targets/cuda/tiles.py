"""How a matrix product is cut into thread blocks: the tile that should take least time on a GPU of so many processors.

The model knows what bounds a block: tensor cores, the bytes that pass through its processor's shared memory, or waiting
for memory while stages are under way. It only has to rank tiles; any tile computes the same.
"""

from dataclasses import dataclass

from targets.cuda.routes import Route

LANES = 32
SHARED_BYTES = 48 << 10  # static shared memory of a block, on every GPU
STAGING_PAD = 8  # int32 behind a row of sums in shared memory: lanes then meet no bank twice

# cycles, all rough: of a block's start and end, and of a load from the second-level cache
_BLOCK, _LATENCY = 1500, 700
_BYTES, _CODES = 48, 2048  # a processor's bytes from the cache, and its products of bytes, in a cycle


@dataclass(frozen=True)
class Tile:
    """A block's part of the output and how its warps share it.

    rows, columns: output pixels and channels. warps: along rows, columns and K. steps: chunks of K that a warp takes
    from each stage. stages: buffers in shared memory, all but one being filled while one is used.
    """

    rows: int
    columns: int
    warps: tuple[int, int, int]
    steps: int
    stages: int

    @property
    def threads(self) -> int:
        """Threads of the block."""
        return LANES * self.warps[0] * self.warps[1] * self.warps[2]

    @property
    def warp_rows(self) -> int:
        """Rows that a warp takes."""
        return self.rows // self.warps[0]

    @property
    def warp_columns(self) -> int:
        """Columns that a warp takes."""
        return self.columns // self.warps[1]

    @property
    def chunks(self) -> int:
        """Chunks of K in a stage."""
        return self.warps[2] * self.steps

    def row_words(self, route: Route) -> int:
        """Returns words of a stage's activation row in shared memory; the last ones keep rows apart in the banks."""
        return route.chunk // 4 * self.chunks + 4 * route.fields

    def stage_words(self, route: Route) -> int:
        """Returns the words of a stage."""
        return self.rows * self.row_words(route) + self.columns * 8 * self.chunks

    def shared_words(self, route: Route) -> int:
        """Returns words of shared memory: of the stages, or of the sums that take their place in the end."""
        return max(self.stages * self.stage_words(route), self.warps[2] * self.rows * (self.columns + STAGING_PAD))

    def depth(self, route: Route, k: int) -> int:
        """Returns the stages that k codes take."""
        return -(-k // (route.chunk * self.chunks))


def _tiles() -> tuple[Tile, ...]:
    shapes = (
        (128, 64, (4, 2, 1)),
        (64, 64, (2, 2, 1)),
        (128, 32, (4, 1, 1)),
        (64, 32, (2, 1, 2)),
        (64, 16, (2, 1, 2)),
        (32, 64, (1, 2, 2)),
        (32, 32, (1, 1, 4)),
        (32, 16, (1, 1, 4)),
        (16, 64, (1, 2, 2)),
        (16, 32, (1, 1, 4)),
        (16, 16, (1, 1, 4)),
    )
    return tuple(Tile(*shape, steps, stages) for shape in shapes for steps in (1, 2, 4) for stages in (2, 3, 4))


TILES = _tiles()


def choose(route: Route, m: int, n: int, k: int, processors: int) -> Tile:
    """Returns the tile for m output pixels, n channels and sums over k codes, on a GPU of that many multiprocessors."""
    fitting = [t for t in TILES if 4 * t.shared_words(route) <= SHARED_BYTES]
    return min(fitting, key=lambda t: (cycles(t, route, m, n, k, processors), t.shared_words(route)))


def cycles(tile: Tile, route: Route, m: int, n: int, k: int, processors: int) -> float:
    """Returns the cycles of the whole product, roughly."""
    blocks = -(-m // tile.rows) * -(-n // tile.columns)
    together = min(SHARED_BYTES * 2 // (4 * tile.shared_words(route)), 1536 // tile.threads)  # on one processor
    waves = -(-blocks // (processors * together))
    shared = min(together, -(-blocks // processors))
    codes = route.chunk * tile.chunks
    products = tile.rows * tile.columns * codes * route.container / 8 / _CODES
    loaded = (tile.rows * codes + tile.columns * codes * route.stored / 8) / _BYTES
    stage = max(shared * products, shared * loaded, _LATENCY / (tile.stages - 1) if tile.depth(route, k) > 1 else 0)
    return waves * (_BLOCK + _LATENCY + tile.depth(route, k) * stage)
