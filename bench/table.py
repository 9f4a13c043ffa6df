"""The results as Markdown: pure functions from a report to text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from bench.records import LIMIT, QUIET_CORES, Cell, Report, Setting

NOTES = """\
Medians over the rounds that other programs did not disturb, or over all where none was quiet; p99 is over the
requests of those rounds together. *Of limit* is images/s by the best of the limit's sweep. *CPU* is seconds of the
server's whole process tree per 1,000 images at the highest concurrency, without the client's; the limit's is that
of its best setting. *Added* is the latency at concurrency 1 beyond decoding and executing the same photos one after
the other in one process. *PSS* shares out the pages that processes have in common. Every answer's first label was
compared with the in-process one. A disturbed cell is measured again, and the least disturbed attempt is kept,
whatever its result."""


def render(report: Report) -> str:
    parts = [
        "\n".join(f"- {name}: {value}" for name, value in report.facts.items()),
        *_warnings(report),
        _summary(report),
        NOTES,
        "**By concurrency** (images/s: median, and lowest to highest)",
        _details(report),
        "**The limit's sweep** (images/s)",
        _sweep(report),
    ]
    if report.errors:
        parts.append("**Errors**\n\n" + "\n".join(f"- {error}" for error in report.errors[:20]))
    return "\n\n".join(parts) + "\n"


def _warnings(report: Report) -> list[str]:
    """Why the numbers below are not to be believed, if there is a reason."""
    warnings = []
    disturbed = [
        f"{report.titles[name]} at {_setting(name, setting)}"
        for name in report.titles
        for setting in report.settings(name)
        if all(cell.disturbed for cell in report.all_of(name, setting))
    ]
    if disturbed:
        warnings.append(
            f"**Disturbed:** other programs took more than {QUIET_CORES:g} cores in every round of "
            f"{'; '.join(disturbed)}. Its throughput and latency are not comparable; CPU per image nearly is."
        )
    limit = _rate(report.of(LIMIT, best_of_sweep(report)))
    faster = {
        report.titles[cell.contestant]
        for cell in report.cells
        if cell.contestant != LIMIT and _rate(report.of(cell.contestant, cell.setting)) > limit
    }
    if faster:
        warnings.append(
            f"**Above the limit:** {', '.join(sorted(faster))}. They do the same work, so the "
            "limit was measured too low in this run, or one process cannot fill this machine."
        )
    return warnings


def best_of_sweep(report: Report) -> Setting:
    """The setting of the limit with the highest median of images/s."""
    swept = [setting for setting in report.settings(LIMIT) if setting.threads]
    return max(swept, key=lambda setting: _rate(report.of(LIMIT, setting)))


def _summary(report: Report) -> str:
    best, in_turn = report.of(LIMIT, best_of_sweep(report)), report.of(LIMIT, Setting())
    limit_rate, limit_cpu, limit_latency = _rate(best), _cpu(best), _percentile(in_turn, 50)
    levels = _concurrencies(report)
    busy = [level for level in levels if level > 1] or levels
    head = ["", "p50 ms at 1", "added ms"]
    head += [column for level in busy for column in (f"images/s at {level}", "of limit")]
    head += ["CPU s/1,000", "beyond limit", "CPU of limit", "RSS MB", "PSS MB", "processes", "idle cores"]
    limit_row = [report.titles[LIMIT], _number(limit_latency * 1e3), "-"]
    limit_row += [column for _ in busy for column in (_number(limit_rate), "1")]
    limit_row += [_number(limit_cpu), "-", "1", *_memory(report, LIMIT), "-"]
    rows = [limit_row]
    for name in report.titles:
        if name == LIMIT:
            continue
        if name in report.missing:
            rows.append(
                [report.titles[name], f"not measured: {_cell_text(report.missing[name])}", *[""] * (len(head) - 2)]
            )
            continue
        alone = report.of(name, Setting(concurrency=1))
        row = [report.titles[name]]
        row += [_number(_percentile(alone, 50) * 1e3), _number((_percentile(alone, 50) - limit_latency) * 1e3)]
        for level in busy:
            rate = _rate(report.of(name, Setting(concurrency=level)))
            row += [_number(rate), f"{rate / limit_rate:.2f}"]
        cpu = _cpu(report.of(name, Setting(concurrency=levels[-1])))
        row += [_number(cpu), _number(cpu - limit_cpu), f"{cpu / limit_cpu:.2f}"]
        rows.append([*row, *_memory(report, name), f"{report.idle_cores.get(name, math.nan):.3f}"])
    return _markdown(head, rows)


def _details(report: Report) -> str:
    head = [
        "",
        "at",
        "images/s",
        "range",
        "quiet rounds",
        "p50 ms",
        "p99 ms",
        "CPU s/1,000",
        "client's",
        "mean batch",
        "others' cores",
        "errors",
    ]
    rows = []
    for name in report.titles:
        for setting in report.settings(name) if name != LIMIT else ():
            cells, every = report.of(name, setting), report.all_of(name, setting)
            rates = [cell.images_per_second for cell in cells]
            batches = [cell.mean_batch for cell in cells if cell.mean_batch is not None]
            rows.append(
                [
                    report.titles[name],
                    str(setting.concurrency),
                    _number(_rate(cells)),
                    f"{_number(min(rates))} to {_number(max(rates))}",
                    f"{sum(not cell.disturbed for cell in every)} of {len(every)}",
                    _number(_percentile(cells, 50) * 1e3),
                    _number(_percentile(cells, 99) * 1e3),
                    _number(_cpu(cells)),
                    _number(_median(cells, lambda cell: 1000 * cell.client_cpu_seconds / cell.images)),
                    _number(median(batches)) if batches else "-",
                    f"{_median(cells, lambda cell: cell.other_cores):.2f}",
                    str(sum(len(cell.errors) for cell in every)),
                ]
            )
    return _markdown(head, rows)


def _sweep(report: Report) -> str:
    settings = [setting for setting in report.settings(LIMIT) if setting.threads]
    batches = sorted({setting.batch_size for setting in settings})
    rows = [
        [str(threads), *(_number(_rate(report.of(LIMIT, Setting(threads=threads, batch_size=b)))) for b in batches)]
        for threads in sorted({setting.threads for setting in settings})
    ]
    return _markdown(["decode threads", *(f"batch {batch}" for batch in batches)], rows)


def _setting(name: str, setting: Setting) -> str:
    if name != LIMIT:
        return f"concurrency {setting.concurrency}"
    return f"{setting.threads} threads and batch {setting.batch_size}" if setting.threads else "one after the other"


def _concurrencies(report: Report) -> list[int]:
    return sorted({cell.setting.concurrency for cell in report.cells if cell.contestant != LIMIT}) or [1]


def _rate(cells: Sequence[Cell]) -> float:
    return _median(cells, lambda cell: cell.images_per_second)


def _cpu(cells: Sequence[Cell]) -> float:
    return _median(cells, lambda cell: cell.cpu_per_thousand)


def _median(cells: Sequence[Cell], value: Callable[[Cell], float]) -> float:
    return median([value(cell) for cell in cells]) if cells else math.nan


def _percentile(cells: Iterable[Cell], percent: float) -> float:
    """By nearest rank: the median of each round's, or over all rounds together beyond the 90th."""
    rounds = [sorted(cell.latencies) for cell in cells if cell.latencies]
    if not rounds:
        return math.nan
    if percent > 90:
        rounds = [sorted(latency for latencies in rounds for latency in latencies)]
    return median(latencies[math.ceil(len(latencies) * percent / 100) - 1] for latencies in rounds)


def _memory(report: Report, name: str) -> list[str]:
    memory = report.memory[name]
    return [f"{memory.rss / 1e6:,.0f}", f"{memory.pss / 1e6:,.0f}", str(memory.processes)]


def _number(value: float) -> str:
    """Three significant digits at least."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cell_text(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
