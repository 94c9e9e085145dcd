"""Convolutions and classifiers on tensor cores: a matrix product whose left side is read out of the feature map.

Rows of the product are output pixels of all pictures, columns output channels, K runs over the window: its rows one
after the other, each one run of bytes in memory (dx, channel), so that ragged channels and the three of a picture need
no padding of their own. What is read past the window meets weights that are zero. The border is physical, so no
coordinate is ever checked; rows past the last pixel repeat it and store nothing.

Stages of K pass through shared memory by cp.async while earlier ones are multiplied. Runs that do not lie on words are
put together from two words each.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tvm.tirx.script import builder as T

from targets.cuda import routes, tiles
from targets.cuda.epilogue import ConvEpilogue
from targets.cuda.memory import QUAD, Place, fill_borders, words
from targets.cuda.routes import Route
from targets.cuda.tiles import LANES, STAGING_PAD, Tile
from targets.cuda.window import Window
from targets.kernel import Buffers, Kernel, Step, is_step_of
from targets.reference.nodes import Conv

_STORE_WORD = "__forceinline__ __device__ void store_word(int* to, int word) { *to = word; }\n"


def implicit_gemm(step: Step[Any], processors: int, containers: tuple[int, ...] = (4, 8)) -> Kernel | None:
    """Returns the kernel of a dense convolution.

    processors: multiprocessors of the GPU that tiles are chosen for.
    containers: see `routes.choose`.
    """
    if not is_step_of(step, Conv) or step.node.groups > 1 or not step.node.is_regular:
        return None
    node = step.node
    window = Window.of(node)
    route = routes.choose(node.weight, node.w_bits, step.reads[0].tensor.bits, window.k, containers)
    h, w, channels = step.write.tensor.shape
    tile = tiles.choose(route, step.write.pictures * h * w, channels, window.k, processors)
    return kernel(step, route, tile)


def kernel(step: Step[Any], route: Route, tile: Tile) -> Kernel:
    """Returns the kernel of that route in that tile; weights are stored as packed bytes, whatever the container."""
    product, epilogue = Product(step, route, tile), ConvEpilogue(step)
    matrix = product.window.matrix(
        step.node.weight, product.columns * tile.columns, product.depth * tile.chunks * route.chunk
    )
    name = f"implicit gemm, {route.name}, {tile.rows}x{tile.columns}"
    bits = step.node.w_bits if route.stored == 8 else 8
    return Kernel(name, route.pack(matrix), bits, epilogue.table, _emit(product, epilogue))


class Product:
    """Sizes of one convolution as a matrix product."""

    def __init__(self, step: Step[Any], route: Route, tile: Tile):
        self.step, self.route, self.tile, self.window = step, route, tile, Window.of(step.node)
        h, w, channels = step.write.tensor.shape
        self.pixels = step.write.pictures * h * w
        self.rows, self.columns = -(-self.pixels // tile.rows), -(-channels // tile.columns)  # tiles
        self.depth = tile.depth(route, self.window.k)
        self.row_words, self.stage_words = tile.row_words(route), tile.stage_words(route)

    def origin(self, row: Any) -> Any:
        """Returns the index of the first code of the window of an output pixel."""
        layout, node = self.step.reads[0], self.step.node
        place = Place.of(row, self.step.write.tensor.shape)
        top, left = node.padding[:2]
        return Place(place.picture, place.y * node.stride[0] - top, place.x * node.stride[1] - left).at(layout, 0)


def _emit(product: Product, epilogue: ConvEpilogue) -> Callable[[Buffers, tuple[Any, Any]], None]:
    tile, step = product.tile, product.step

    def emit(buffers: Buffers, _: tuple[Any, Any]) -> None:
        with T.launch_thread("blockIdx.x", product.rows) as block_row:
            with T.launch_thread("blockIdx.y", product.columns) as block_column:
                with T.launch_thread("threadIdx.x", tile.threads) as thread:
                    block = Block(product, block_row, block_column, thread)
                    block.multiply(buffers)
                    block.finish(epilogue, buffers)
                    number = (block_column * product.rows + block_row) * tile.threads + thread
                    fill_borders(step.writes, buffers.writes, number, product.rows * product.columns * tile.threads)

    return emit


class Block:
    """The code of one thread block."""

    def __init__(self, product: Product, block_row: Any, block_column: Any, thread: Any):
        self.product, self.tile, self.route = product, product.tile, product.route
        self.block_row, self.block_column, self.thread = block_row, block_column, thread
        lane, warp = thread % LANES, thread // LANES
        self.lane, self.g, self.t = lane, lane // 4, lane % 4
        along_rows, along_columns, _ = self.tile.warps
        self.row = warp % along_rows * self.tile.warp_rows
        self.column = warp // along_rows % along_columns * self.tile.warp_columns
        self.part = warp // (along_rows * along_columns)  # of K
        self.fragments = (self.tile.warp_rows // 16, self.tile.warp_columns // 8)
        self.shared = T.alloc_buffer((self.tile.shared_words(self.route),), "int32", scope="shared")
        self.accs = T.alloc_buffer((4 * self.fragments[0] * self.fragments[1],), "int32", scope="local")

    def multiply(self, buffers: Buffers) -> None:
        """Multiplies all stages of K: each is loaded while those before it are multiplied."""
        ahead, depth = self.tile.stages - 1, self.product.depth
        for i in range(int(self.accs.shape[0])):
            T.buffer_store(self.accs, T.int32(0), [i])
        origins = self._origins()
        for stage in range(ahead):
            if stage < depth:
                self._load(T.int32(stage), buffers, origins)
            T.evaluate(T.ptx["cp.async.commit_group"]())
        with T.serial(depth) as stage:
            T.evaluate(T.ptx["cp.async.wait_group"](ahead - 1))
            T.evaluate(T.tvm_storage_sync("shared"))
            if depth > ahead:
                with T.If(stage + ahead < depth), T.Then():
                    self._load(stage + ahead, buffers, origins)
            T.evaluate(T.ptx["cp.async.commit_group"]())
            self._multiply(stage % self.tile.stages * self.product.stage_words)
        T.evaluate(T.ptx["cp.async.wait_group"](0))
        T.evaluate(T.tvm_storage_sync("shared"))

    def finish(self, epilogue: ConvEpilogue, buffers: Buffers) -> None:
        """Stores the codes: sums of all parts of K meet in shared memory and leave in order of the channels."""
        tile, route, (rows, columns) = self.tile, self.route, self.fragments
        stride = tile.columns + STAGING_PAD
        for r in range(rows):
            for c in range(columns):
                for i in range(4):
                    row, column = self.row + 16 * r + self.g + i // 2 * 8, self.column + 8 * c + 2 * self.t + i % 2
                    acc = T.cuda.func_call(
                        f"unscale_{route.name}",
                        self.accs[4 * (r * columns + c) + i],
                        source_code=route.unscale_source(),
                        return_type="int32",
                    )
                    T.buffer_store(self.shared, acc, [(self.part * tile.rows + row) * stride + column])
        T.evaluate(T.tvm_storage_sync("shared"))
        with T.serial(-(-tile.rows * tile.columns // QUAD // tile.threads)) as turn:
            self._finish_quad(T.bind(turn * tile.threads + self.thread), stride, epilogue, buffers)

    def _finish_quad(self, item: Any, stride: int, epilogue: ConvEpilogue, buffers: Buffers) -> None:
        """Four channels of a pixel, whose sums of each part of K lie in shared memory."""
        tile, shape, across = self.tile, self.product.step.write.tensor.shape, self.tile.columns // QUAD
        row, column = item // across, item % across * QUAD
        pixel, channel = T.bind(self.block_row * tile.rows + row), T.bind(self.block_column * tile.columns + column)
        with T.If(T.And(row < tile.rows, T.And(pixel < self.product.pixels, channel < shape[2]))), T.Then():
            parts = [
                self.shared[T.ramp((part * tile.rows + row) * stride + column, 1, QUAD)]
                for part in range(tile.warps[2])
            ]
            total = T.bind(sum(parts[1:], parts[0]))
            sums = [T.Shuffle([total], [i]) for i in range(QUAD)]
            epilogue.put(sums, buffers, Place.of(pixel, shape), channel)

    def _vectors(self) -> tuple[int, int]:
        """Vectors of activations in a stage's row, and in all its rows by each thread."""
        each = self.route.chunk * self.tile.chunks // self.product.window.step
        return each, -(-self.tile.rows * each // self.tile.threads)

    def _origins(self) -> Any:
        """int32 [turns]: where the windows begin whose vectors this thread loads."""
        each, turns = self._vectors()
        origins = T.alloc_buffer((turns,), "int32", scope="local")
        for turn in range(turns):
            row = (turn * self.tile.threads + self.thread) // each
            pixel = T.bind(T.min(self.block_row * self.tile.rows + row, self.product.pixels - 1))
            T.buffer_store(origins, self.product.origin(pixel), [turn])
        return origins

    def _load(self, stage: Any, buffers: Buffers, origins: Any) -> None:
        """Starts the copies of a stage."""
        window, (each, turns) = self.product.window, self._vectors()
        slot = T.bind(stage % self.tile.stages * self.product.stage_words)
        layout = self.product.step.reads[0]
        for turn in range(turns):
            item = turn * self.tile.threads + self.thread
            with self._only(turn, self.tile.rows * each):
                k = T.bind(T.min((stage * each + item % each) * window.step, window.k - window.step))
                at = T.bind(origins[turn] + k // window.padded_run * layout.row_stride + k % window.padded_run)
                to = slot + item // each * self.product.row_words + item % each * (window.step // 4)
                if window.vector:
                    self._copy(to, T.address_of(buffers.reads[0][at]), window.vector)
                else:
                    T.evaluate(
                        T.cuda.func_call(
                            "store_word", self._target(to, 1), _unaligned(buffers.reads[0], at), source_code=_STORE_WORD
                        )
                    )
        self._load_weights(stage, slot + self.tile.rows * self.product.row_words, buffers.weights)

    def _load_weights(self, stage: Any, to: Any, weights: Any) -> None:
        """A chunk's weights of these columns lie side by side."""
        each = self.tile.columns * 2  # vectors of 16 bytes
        total = self.tile.chunks * each
        for turn in range(-(-total // self.tile.threads)):
            item = turn * self.tile.threads + self.thread
            with self._only(turn, total):
                chunk = stage * self.tile.chunks + item // each
                at = (chunk * self.product.columns + self.block_column) * each + item % each
                self._copy(to + item * 4, T.address_of(weights[at * 16]), 16)

    def _only(self, turn: int, total: int) -> AbstractContextManager[None]:
        """A condition where not every thread has an item this turn."""
        if (turn + 1) * self.tile.threads <= total:
            return nullcontext()
        return _when(turn * self.tile.threads + self.thread < total)

    def _copy(self, to: Any, source: Any, size: int) -> None:
        kind = "cg" if size == 16 else "ca"
        T.evaluate(T.ptx[f"cp.async.{kind}.shared.global"](self._target(to, size // 4), source, size))

    def _target(self, to: Any, count: int) -> Any:
        """Where a stage's words go.

        TVM would set a barrier of its own behind every write it sees; it is told of a read, which keeps the
        buffer whole too.
        """
        return self.shared.access_ptr("r", offset=to, extent=count)

    def _multiply(self, slot: Any) -> None:
        """This warp's chunks of one stage."""
        route, tile, (rows, columns), n = self.route, self.tile, self.fragments, self.route.fields
        slot = T.bind(slot)
        for s in range(tile.steps):
            chunk = self.part * tile.steps + s
            a = []
            for r in range(rows):
                at = slot + (self.row + 16 * r + self.g) * self.product.row_words + (chunk * 8 + self.t) * n
                corners = (at, at + 8 * self.product.row_words, at + 4 * n, at + 8 * self.product.row_words + 4 * n)
                a.append([word for corner in corners for word in self._words(corner, n)])
            for c in range(columns):
                at = slot + tile.rows * self.product.row_words
                at = at + ((chunk * tile.columns + self.column + 8 * c) * 4 + self.lane) * 2
                b = self._words(at, 2)
                for r in range(rows):
                    accs = [self.accs[4 * (r * columns + c) + i] for i in range(4)]
                    T.evaluate(T.cuda.func_call(f"multiply_{route.name}", *accs, *a[r], *b, source_code=route.source()))

    def _words(self, at: Any, count: int) -> list[Any]:
        if count == 1:
            return [T.bind(self.shared[at])]
        vector = T.bind(self.shared[T.ramp(at, 1, count)])
        return [T.Shuffle([vector], [i]) for i in range(count)]


@contextmanager
def _when(condition: Any) -> Iterator[None]:
    with T.If(condition), T.Then():
        yield


def _unaligned(codes: Any, at: Any) -> Any:
    """The int32 word at any byte."""
    memory = words(codes, "uint32")
    low, high = (T.cast(memory[at // 4 + i], "uint64") for i in (0, 1))
    both = T.bitwise_or(T.shift_left(high, T.uint64(32)), low)
    return T.cast(T.shift_right(both, T.cast(at % 4 * 8, "uint64")), "int32")
