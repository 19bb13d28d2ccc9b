"""Commands: ``steadyedit run | rehearse | verify | bench | gpu | train | curate | study | toyworld | cache | demo``."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .curate import add_curate, curate
from .graph import GraphError, check_links, needs_models, one_line, put_video, read_graph, set_input, shipped, title_of
from .study import add_study, study
from .team import Ended, end_with_parent, processes
from .train import add_train, train

RECIPES = Path(__file__).parents[1] / "toyworld" / "training"
#: What the toy world has recipes for.
NETWORKS = "vae, unet, clip, classifier, editor, controlnet, wan_vae, wan, sam or grounder"


def parser() -> argparse.ArgumentParser:
    """Commands and their options. Heavy imports wait until a command runs."""
    top = argparse.ArgumentParser(prog="python -m steadyedit", description="Consistent video editing by command.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run an API-format graph without the editor")
    run.add_argument("graph", nargs="?", metavar="GRAPH", help="a shipped graph's name, such as toy_ei2, or a file in "
                     "API format")
    run.add_argument("--list", action="store_true", dest="listed", help="show the shipped graphs, a line each")
    run.add_argument("--set", action="append", default=[], dest="settings", metavar="NODE.INPUT=VALUE",
                     help="set an input of a node, by its id or title; may be repeated")
    run.add_argument("--video", type=Path, metavar="FILE", help="in place of the graph's toy clip or loaded video")
    run.add_argument("--output", type=Path, default=Path("output"), metavar="DIR", help="default: %(default)s")
    run.add_argument("--stream", type=int, metavar="FRAMES",
                     help="so many frames at a time, for videos of any length; goes on where it stopped")
    run.add_argument("--processes", type=int, metavar="N", help="processes that share the windows of --stream, a GPU "
                     "each where there are several; torchrun does the same")
    run.add_argument("--host", choices=("auto", "comfy", "standalone"), default="auto",
                     help="auto: standalone where it knows all nodes of the graph, else a ComfyUI")

    rehearse = commands.add_parser("rehearse", help="run shipped graphs whole in a ComfyUI, on small random weights")
    rehearse.add_argument("names", nargs="*", metavar="NAME", help="a shipped graph or blueprint, such as "
                          "lora_edit_wan")
    rehearse.add_argument("--all", action="store_true", dest="everything", help="all graphs that load model files")
    rehearse.add_argument("--models", type=Path, metavar="DIR", help="an empty folder for the random weights, to use "
                          "them again; default: a temporary one")

    verify = commands.add_parser("verify", help="run a shipped graph on your real weights and write a folder to share")
    verify.add_argument("graph", metavar="GRAPH", help="a shipped graph's name, such as ei2")
    verify.add_argument("--models", type=Path, metavar="DIR", help="folder of models; default: your ComfyUI's")
    verify.add_argument("--video", type=Path, metavar="FILE", help="default: a clip of our own, the same everywhere")
    verify.add_argument("--set", action="append", default=[], dest="settings", metavar="NODE.INPUT=VALUE",
                        help="set an input of a node, by its id or title; may be repeated")
    verify.add_argument("--output", type=Path, metavar="DIR", help="default: output/verify_GRAPH")

    bench = commands.add_parser("bench", help="measure methods against the toy world's known answers")
    bench.add_argument("name", metavar="NAME", help="such as ei2")
    bench.add_argument("--clips", type=int, metavar="N", help="number of held-out clips")
    bench.add_argument("--methods", metavar="A,B", help="default: all of the benchmark's")
    bench.add_argument("--manifest", type=Path, metavar="FILE", help="curated: that `curate` wrote")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    bench.add_argument("--workers", type=int, metavar="N", help="processes that share the clips; needs --json")
    bench.add_argument("--bases", metavar="A,B", help="dape: the methods that it is put on, such as per-frame,ei2")
    bench.add_argument("--steps", type=float, metavar="SCALE", help="dape, ei2: scale of the published steps, such as "
                       "0.1")
    bench.add_argument("--peers", metavar="A=FOLDER,B=FOLDER", help="peers: where comfyui, rave or tune-a-video lie")
    bench.add_argument("--sizes", metavar="A,B", help="kernels: frames x tokens of a frame, such as 8x1024,32x4096; "
                       "via: lengths of clip, such as 8,72,240; lora_edit_size: frames x width x height")
    bench.add_argument("--editor", metavar="NAME", help="via: instruct (InstructPix2Pix, the default) or flow (of FLUX "
                       "Kontext's kind)")
    bench.add_argument("--part", metavar="NAME", help="adaptation: causes (the default) or hard")

    gpu = commands.add_parser("gpu", help="measure on a first GPU all that was predicted for it, in pieces of minutes")
    gpu.add_argument("--minutes", type=float, default=25.0, help="for this call; the next one goes on (default: 25)")
    gpu.add_argument("--tiny", action="store_true", help="rehearse all of it on the CPU, in a few minutes")
    gpu.add_argument("--output", type=Path, metavar="DIR", help="default: output/gpu, or output/gpu_tiny")
    gpu.add_argument("--wheels", type=Path, metavar="DIR", help="wheels of what is missing here; nothing is downloaded")
    gpu.add_argument("--only", metavar="A,B", help="names of pieces")
    gpu.add_argument("--piece", help=argparse.SUPPRESS)

    toy = commands.add_parser("toyworld", help="the toy world's models and renderer")
    actions = toy.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train a model again by its recipe")
    train.add_argument("name", metavar="NAME", help=NETWORKS)
    measure = actions.add_parser("measure", help="measure the trained models against their bars")
    measure.add_argument("names", nargs="*", metavar="NAME", help=f"{NETWORKS}; default: all that are trained")
    render = actions.add_parser("render", help="render a clip and the answer of one of its edits")
    render.add_argument("--seed", type=int, default=0)
    render.add_argument("--edit", default="colour", help="colour, shape, texture, background or style")
    render.add_argument("--frames", type=int, default=8)
    render.add_argument("--size", type=int, default=128)
    render.add_argument("--slower", type=int, default=1, help="so many times slower; the toy video model wants 6")
    render.add_argument("--output", type=Path, default=Path("output"), metavar="DIR")

    cache = commands.add_parser("cache", help="show what is kept of finished and interrupted trainings, or make room")
    cache.add_argument("--empty", action="store_true", help="remove all of it; saved weights stay")
    cache.add_argument("--limit", type=float, metavar="GB", help="remove what is unused for longest until it fits")
    cache.add_argument("--folder", type=Path, metavar="DIR", help="default: those of this machine")

    add_train(commands)
    add_curate(commands)
    add_study(commands)

    demo = commands.add_parser("demo", help="a real edit of a real file, with measured numbers, in minutes")
    demo.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR")
    return top


def run(options: argparse.Namespace) -> int:
    """Run a graph and print the files that it wrote."""
    if options.listed or not options.graph:
        if not options.listed:
            raise GraphError("run: name a graph; `run --list` shows the shipped ones.")
        print(listed())
        return 0
    if options.stream is None and (options.processes or processes() > 1):
        raise GraphError("run: several processes share out the windows of a streamed edit; add --stream FRAMES.")
    if processes() > 1:
        end_with_parent()
    if options.processes is not None and "WORLD_SIZE" not in os.environ:
        from .processes import launch, without_option

        return launch(options.processes, without_option(options.arguments, "--processes"))
    graph = read_graph(options.graph)
    # The file first: what replaces the clip can then be set as well.
    if options.video:
        if not options.video.is_file():
            raise GraphError(f"--video {options.video}: there is no such file.")
        put_video(graph, str(options.video.absolute()), whole=options.stream is not None)
    changed = [set_input(graph, assignment) for assignment in options.settings]
    if options.stream is not None:
        from .stream import stream

        if options.host == "comfy":
            raise GraphError("--stream runs without ComfyUI; leave out --host comfy.")
        if (written := stream(graph, options.output, options.stream)) is not None:
            print(written)
        return 0
    for path in run_on(options.host, graph, options.output, changed):
        print(path)
    return 0


def listed() -> str:
    """The shipped graphs, a line each, and how to run one."""
    names = shipped()
    real = {name for name, path in names.items() if needs_models(path)}
    lines = ["Toy graphs: run at once, without a GPU and without a download."]
    for heading, chosen in ((None, names.keys() - real), ("Graphs for real models: run in a ComfyUI that has the files "
                            "of docs/models.md; `rehearse NAME` tries one without them.", real)):
        lines += ["", heading] if heading else []
        lines += [f"  {name:{max(map(len, names))}}  {one_line(names[name])}" for name in sorted(chosen)]
    return "\n".join([*lines, "", "Run one: python -m steadyedit run toy_ei2 [--video FILE] [--output DIR]. "
                      "What else can be set: run --help, docs/command_line.md."])


def run_on(host: str, graph: dict, output: Path, changed: list[tuple[str, str]]) -> list[Path]:
    """Run a graph on the named host; returns the files written."""
    if host != "comfy":
        from .run import known_nodes, run_standalone

        unknown = {node["class_type"] for node in graph.values()} - known_nodes().keys()
        if host == "standalone" or not unknown:
            return run_standalone(graph, output, report=lambda key, s: print(
                f"{title_of(graph[key])}: {s:.1f} s", file=sys.stderr)).saved
    from .comfy_host import run_in_comfy
    from .comfy_process import find_comfy

    check_links(graph)
    comfy = find_comfy()
    if comfy is None:
        raise GraphError("this graph needs a ComfyUI, and none was found: set COMFYUI_PATH to its folder.")
    return run_in_comfy(graph, comfy, output, changed)


def rehearse(options: argparse.Namespace) -> int:
    """Rehearse graphs, a line each; see ``standalone.rehearsal``."""
    from .comfy_process import find_comfy
    from .rehearsal.pieces import real_pieces
    from .rehearsal.run import rehearse as rehearse_graphs

    names = real_pieces() if options.everything else list(dict.fromkeys(options.names))
    if not names:
        raise GraphError(f"rehearse: name a graph, or --all; there are {', '.join(real_pieces())}.")
    comfy = find_comfy()
    if comfy is None:
        raise GraphError("a rehearsal needs a ComfyUI, and none was found: set COMFYUI_PATH to its folder.")
    failed = False
    for result in rehearse_graphs(names, comfy, options.models):
        failed |= isinstance(result, GraphError)
        if isinstance(result, GraphError):
            print(f"steadyedit: {result}", file=sys.stderr, flush=True)
        else:
            print(result, flush=True)
    return int(failed)


def verify(options: argparse.Namespace) -> int:
    """Verify a graph; see ``standalone.verify``."""
    from .comfy_process import find_comfy
    from .verify.run import default_folder
    from .verify.run import verify as verify_graph

    if options.video and not options.video.is_file():
        raise GraphError(f"--video {options.video}: there is no such file.")
    comfy = find_comfy()
    if comfy is None:
        raise GraphError("verify needs your ComfyUI, and none was found: set COMFYUI_PATH to its folder.")
    folder = options.output or default_folder(options.graph)
    written, because = verify_graph(options.graph, comfy, options.models or comfy / "models", options.video,
                                    options.settings, folder)
    for path in written:
        print(path)
    print("Look at these files before you share them: the sheet shows your clip.")
    if because is not None:
        raise GraphError(because)
    return 0


def bench(options: argparse.Namespace) -> int:
    """Run a folder of ``benchmarks``."""
    folder = Path(__file__).parents[1] / "benchmarks"
    names = sorted(path.parent.name for path in folder.glob("*/run.py"))
    if options.name not in names:
        raise GraphError(f"bench: there is no '{options.name}'; there are {', '.join(names)}.")
    module = importlib.import_module(f"..benchmarks.{options.name}.run", __package__)
    given = {
        "clips": options.clips,
        "methods": options.methods.split(",") if options.methods else None,
        "json_path": options.json,
        "manifest": options.manifest,
        "bases": options.bases.split(",") if options.bases else None,
        "steps": options.steps,
        "editor": options.editor,
        "part": options.part,
        "sizes": options.sizes.split(",") if options.sizes else None,
        "peers": options.peers.split(",") if options.peers else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in sorted(given.keys() - inspect.signature(module.main).parameters.keys()):
        raise GraphError(f"bench {options.name}: --{name} is not an option of this one.")
    if "manifest" in inspect.signature(module.main).parameters and options.manifest is None:
        raise GraphError(f"bench {options.name}: --manifest is missing; give the manifest.csv that `curate` wrote.")
    if options.workers is not None and "WORLD_SIZE" not in os.environ:
        from ..benchmarks.common.shards import launch

        return launch(options.workers, options.arguments)
    module.main(**given)
    return 0


def toyworld(options: argparse.Namespace) -> int:
    """Train, measure or render."""
    if options.action in ("train", "measure") and not RECIPES.is_dir():
        raise GraphError(f"toyworld {options.action} needs the recipes, which an installed SteadyEdit leaves out: "
                         "call it in a clone of the repository.")
    if options.action == "train":
        from ..toyworld.training import train

        train.main(options.name)
    elif options.action == "measure":
        from ..toyworld.training import measure

        measure.main(*options.names)
    else:
        from .render import render_files

        wanted = options.seed, options.edit, options.frames, options.size, options.output, options.slower
        for path in render_files(*wanted):
            print(path)
    return 0


def cache(options: argparse.Namespace) -> int:
    """Show the caches, or make room; see ``standalone.cache``."""
    from .cache import main as show

    show(options.folder, options.limit, options.empty)
    return 0


def gpu(options: argparse.Namespace) -> int:
    """Measure on a GPU, or rehearse that; see ``standalone.gpu.command``."""
    from .gpu.command import FAILED, main, run_piece
    from .gpu.table import PIECES

    output = options.output or Path("output") / ("gpu_tiny" if options.tiny else "gpu")
    if options.piece:
        run_piece(next(piece for piece in PIECES if piece.name == options.piece), output, options.tiny)
        return 0
    only = options.only.split(",") if options.only else None
    report = main(output, options.minutes, options.tiny, options.wheels, only)
    return int(any(row["status"] == FAILED for row in report["pieces"]))


def demo(options: argparse.Namespace) -> int:
    """The demo; see ``standalone.demo``."""
    from .demo import main as run_demo

    run_demo(options.output)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run one command.

    Returns:
        0, or 1 where the user's input was at fault (one sentence on the error stream),
        or 130 after an interrupt.
    """
    options = parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = (run, rehearse, verify, bench, gpu, train, curate, study, toyworld, demo, cache)
    command = {command.__name__: command for command in commands}[options.command]
    try:
        return command(options)
    except (ValueError, OSError, MemoryError) as error:
        print(f"steadyedit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        if not isinstance(error, Ended) or str(error):
            print(f"steadyedit: {error if str(error) else 'cancelled.'}", file=sys.stderr)
        return 130
