"""Quality of recommendations beside peers: ``python -m benchmarks.quality COMMAND --help``.

Needs the packages of benchmarks/peers/optimizers/requirements.txt; ``nox -s peers -- optimizers`` does everything.

run      make runs and keep them in a folder; what is already there is not made again
         python -m benchmarks.quality run --optimizer peers --out RUNS
         python -m benchmarks.quality run --optimizer auto,gp,tpe,cmaes,genetic,random --out RUNS
quick    for tuning: run now, keep nothing, print normalised regret and ranks beside the peers' finished runs in RUNS
         python -m benchmarks.quality quick --optimizer gp --peers RUNS
         python -m benchmarks.quality quick --optimizer gp,tpe --seeds 0-4 --problems bbob-f15-d10 --peers RUNS
         python -m benchmarks.quality quick --optimizer gp --problems all --seeds 0-9 --peers RUNS
collect  put the runs of a folder into one file
         python -m benchmarks.quality collect --runs RUNS --results benchmarks/results
overhead, evolution
         time ask and tell, and NSGA-II; rows that are not measured now stay as they are
         python -m benchmarks.quality overhead --results benchmarks/results --only dspex-tpe,dspex-gp
         python -m benchmarks.quality evolution --results benchmarks/results --only dspex
report   write optimizers.md, its plots and scores.json from the results
         python -m benchmarks.quality report --results benchmarks/results

Groups of problems: mixed (the default), conditional, rules, noisy.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.quality import collected, evolution, groups, overhead, quick, report, runs, timings

QUICK = ("bbob-f03-d5", "bbob-f13-d20", "bbob-f21-d10", "hpobench-vehicle", "hpolib-slice", "nasbench201-cifar10")


def numbers(text: str) -> list[int]:
    """`0-9` or `0,2,4`."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """`a,b,c`."""
    return text.split(",")


def measured(todo: Sequence[tuple[str, str, int]], evaluations: int, jobs: int) -> Iterator[runs.Run]:
    """The runs, as they finish."""
    if jobs == 1:
        for optimizer, name, seed in todo:
            yield runs.measure(optimizer, name, seed, evaluations)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(runs.measure, *item, evaluations) for item in todo]
        for done in as_completed(waiting):
            yield done.result()


def make(args: argparse.Namespace) -> None:
    """The command `run`."""
    group = groups.GROUPS[args.group]
    optimizers = group.peers if args.optimizer == ["peers"] else [runs.full_name(name) for name in args.optimizer]
    plan = runs.plan(optimizers, args.problems or list(group.problems), args.seeds)
    todo = [item for item in plan if not runs.path(args.out, *item).exists()]
    for done in measured(todo, args.evaluations or group.evaluations, args.jobs):
        runs.keep(args.out, done)
        print(f"{done.optimizer} {done.problem} {done.seed}: {done.truth[-1]:.6g} in {done.cpu_s:.1f} s", flush=True)


def tune(args: argparse.Namespace) -> None:
    """The command `quick`."""
    group = groups.GROUPS[args.group]
    chosen = [name for name in QUICK if name in group.problems] or list(group.problems)
    problems = list(group.problems) if args.problems == ["all"] else args.problems or chosen
    plan = runs.plan([runs.full_name(name) for name in args.optimizer], problems, args.seeds)
    own = list(measured(plan, args.evaluations, args.jobs))
    quick.show(own, list(runs.kept(args.peers)), group, args.evaluations)


def gather(args: argparse.Namespace) -> None:
    """The command `collect`."""
    kept = list(runs.kept(args.runs))
    best = {name: groups.load(name).best for name in sorted({run.problem for run in kept})}
    collected.write(kept, best, args.results / "quality.json")


def time_overhead(args: argparse.Namespace) -> None:
    """The command `overhead`."""
    timings.measure_overhead(args.results, args.only)


def time_evolution(args: argparse.Namespace) -> None:
    """The command `evolution`."""
    timings.measure_evolution(args.results, args.only)


def describe(args: argparse.Namespace) -> None:
    """The command `report`."""
    report.write(args.results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command, work, evaluations, seeds in (("run", make, None, "0-9"), ("quick", tune, 100, "0-2")):
        sub = commands.add_parser(command)
        sub.set_defaults(work=work)
        sub.add_argument("--optimizer", type=names, required=True, help="of dspex, or a peer's; `peers` is all of them")
        sub.add_argument("--group", choices=list(groups.GROUPS), default="mixed")
        sub.add_argument("--problems", type=names, help=", ".join(groups.HOME))
        sub.add_argument("--seeds", type=numbers, default=numbers(seeds), help="0-9 or 0,2,4")
        sub.add_argument("--evaluations", type=int, default=evaluations)
        sub.add_argument("--jobs", type=int, default=1, help="processes")
        where = ("--out", "folder of runs") if command == "run" else ("--peers", "folder with the peers' finished runs")
        sub.add_argument(where[0], type=Path, required=True, help=where[1])
    sub = commands.add_parser("collect")
    sub.set_defaults(work=gather)
    sub.add_argument("--runs", type=Path, required=True, help="folder of runs")
    sub.add_argument("--results", type=Path, required=True, help="folder of results")
    for command, work, rows in (
        ("overhead", time_overhead, [*overhead.OURS, *overhead.PEERS]),
        ("evolution", time_evolution, list(evolution.SIZES)),
    ):
        sub = commands.add_parser(command)
        sub.set_defaults(work=work)
        sub.add_argument("--results", type=Path, required=True, help="folder of results")
        sub.add_argument("--only", type=names, default=rows, help=", ".join(rows))
    sub = commands.add_parser("report")
    sub.set_defaults(work=describe)
    sub.add_argument("--results", type=Path, required=True, help="folder of results")
    args = parser.parse_args()
    args.work(args)


if __name__ == "__main__":
    main()
