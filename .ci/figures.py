#!/usr/bin/env python3
"""Makes the sentences and table rows of the documents that have measured figures, from the files that the benches wrote, and
fails when a document says something else.

Whoever changes such a sentence changes it here. In the sections of WATCHED no other figure of the kind may stand.
"""
import csv, pathlib, re, statistics, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "results"
TABLES = ["quiet-2w", "quiet-1w", "loaded-2w", "loaded-1w", "peers-2w"]
RAW, PUBLISHED = "raw tokio", "0.57.4"


def load(name):
    """{(row, contender): the values of the rounds}."""
    with open(RESULTS / f"{name}.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {(row, contender): [float(value) for value in rounds if value] for row, _, contender, *rounds in rows}


FILES = {name: load(name) for name in TABLES}


def median(row, contender, file="peers-2w"):
    return statistics.median(FILES[file][row, contender])


def ratio(row, other, file):
    """This crate's value by another one's: the median of the ratios within a round, as on the pages."""
    ours, theirs = FILES[file][row, "ours"], FILES[file][row, other]
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def span(row, other, digits=2, form=lambda value: value):
    """The least and the greatest of the ratios of all tables."""
    ratios = [form(ratio(row, other, file)) for file in TABLES]
    return f"{min(ratios):.{digits}f} to {max(ratios):.{digits}f}"


def rate(value):
    """Messages or connections per second."""
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.0f} k" if value >= 1e5 else f"{value / 1e3:.1f} k"


def micros(value):
    return f"{value:.1f} µs" if value < 10 else f"{value:.0f} µs"


def kilobytes(value):
    return f"{value / 1e3:.1f} kB" if value < 10e3 else f"{value / 1e3:.0f} kB"


def table_row(label, row, form, contenders):
    return f"| {label} | " + " | ".join(form(median(row, contender)) for contender in contenders) + " |"


def lines_of_code():
    """Lines of src/ without blank ones, comments and tests; and the most that a file has in all."""
    count, longest = 0, 0
    for path in sorted((ROOT / "src").rglob("*.rs")):
        if "checks" in path.parts:
            continue
        lines = path.read_text().splitlines()
        longest = max(longest, len(lines))
        for number, line in enumerate(lines):
            if line.startswith(("#[cfg(test)]", "#[cfg(all(test,")) and re.match(r"mod \w+ *\{", lines[number + 1]):
                break
            count += bool(line.strip()) and not line.strip().startswith("//")
    return count, longest


def idle_megabytes():
    """The heap of both ends of 100,000 idle connections."""
    page = (RESULTS / "idle-100k.md").read_text()
    return int(re.search(r"^\| both \| \d+ \| (\d+) \|", page, re.M)[1]) * 100_000 / 1e6


SIZES = {"16 B": "one-way 16 B", "256 B": "one-way 256 B", "4 KiB": "one-way 4 KiB", "64 KiB": "one-way 64 KiB", "1 MiB": "one-way 1 MiB"}
PING, SETUP, FAN_IN = "ping-pong 64 B: p50", "connect + disconnect", "fan-in 50 -> 1, 1 KiB"
OUTSIDE, HEAP = "fan-out 1 -> 100, 1 KiB, from main", "heap per idle pair, after traffic"
PLAIN = ["ours", RAW, PUBLISHED, "message-io", "tentacle", "libp2p"]
ENCRYPTED = ["ours+noise", "ours+tls", "libp2p", "commonware-p2p", "iroh"]
ROUNDS = {3: "three", 5: "five"}[len(FILES["peers-2w"]["one-way 16 B", "ours"])]


def percent_more(value):
    return (value - 1) * 100


def expected():
    """Yields (document, what it has to say)."""
    readme = "README.md"
    yield readme, (
        f"A connection takes {median(HEAP, 'ours') / 2e3:.1f} kB of heap per end with all five protocols on (the published crate: "
        f"{median(HEAP, PUBLISHED) / 2e3:.0f} kB; by hand, without limits or endings: {median(HEAP, RAW) / 2e3:.1f} kB), so 100,000 of them take "
        f"{idle_megabytes():.0f} MB for both ends together."
    )
    yield readme, (
        f"It loses to hand-written `Framed` code with messages of 16 B ({span(SIZES['16 B'], RAW)} of its messages per second, in the five tables), "
        f"in a round trip ({span(PING, RAW, 0, percent_more)} % longer) and in connect + disconnect ({span(SETUP, RAW)} of its rate). "
        f"With 256 B it has {span(SIZES['256 B'], RAW)} of its rate, with 4 KiB {span(SIZES['4 KiB'], RAW)}, with 64 KiB {span(SIZES['64 KiB'], RAW)}; "
        f"the least is that of two workers beside busy neighbours. Of the messages per second of the published crate it has "
        f"{span(SIZES['16 B'], PUBLISHED)} times as many with 16 B, {span(SIZES['4 KiB'], PUBLISHED)} with 4 KiB and "
        f"{span(SIZES['64 KiB'], PUBLISHED)} with 64 KiB."
    )
    for size in ["16 B", "256 B", "4 KiB", "64 KiB"]:
        if min(TABLES, key=lambda file: ratio(SIZES[size], RAW, file)) != "loaded-2w":
            failures.append(f"README.md: with {size} the least is not that of loaded-2w")
    yield readme, f"Medians of {ROUNDS} rounds on two cores of a virtual machine"
    for label, row in SIZES.items():
        yield readme, table_row(f"one-way {label}, messages/s", row, rate, PLAIN)
    yield readme, table_row("ping-pong 64 B, p50", PING, micros, PLAIN)
    yield readme, table_row("connect + disconnect, per second", SETUP, rate, PLAIN)
    yield readme, table_row("50 senders to one, 1 KiB, messages/s", FAN_IN, rate, PLAIN)
    yield readme, table_row("heap per idle pair of ends, after traffic", HEAP, kilobytes, PLAIN)
    for label, row in SIZES.items():
        yield readme, table_row(f"one-way {label}, messages/s", row, rate, ENCRYPTED)
    yield readme, table_row("64 KiB, CPU per message", "one-way 64 KiB: CPU per message", micros, ENCRYPTED)
    yield readme, table_row("ping-pong 64 B, p50", PING, micros, ENCRYPTED)
    yield readme, f"100,000 idle connections take {idle_megabytes():.0f} MB of heap for both ends together"
    loaded = lambda size: f"{ratio(SIZES[size], RAW, 'loaded-2w'):.2f}"
    yield readme, (
        f"**16 B messages** against raw tokio, by a factor of {span(SIZES['16 B'], RAW, 1, lambda value: 1 / value)}, depending on"
    )
    yield readme, (
        f"**256 B messages** in some runs, for the same reason: {ratio(SIZES['256 B'], RAW, 'peers-2w'):.2f} of raw in this one, "
        f"{ratio(SIZES['256 B'], RAW, 'quiet-2w'):.2f} in quiet-2w."
    )
    yield readme, (
        f"**Two workers beside busy neighbours**: {loaded('256 B')} of raw at 256 B, {loaded('4 KiB')} at 4 KiB, {loaded('64 KiB')} at 64 KiB, "
        f"{loaded('1 MiB')} at 1 MiB."
    )
    yield readme, f"**A round trip** costs {span(PING, RAW, 0, percent_more)} % more than by hand (p50),"
    yield readme, f"A **fan-out from outside of the runtime's workers** reaches {span(OUTSIDE, RAW, 1)} of raw."
    yield readme, (
        f"**Heap**: an idle pair takes {ratio(HEAP, RAW, 'peers-2w'):.1f} times that of raw, which has no queues, limits or timeouts."
    )
    count, longest = lines_of_code()
    if longest > 400:
        failures.append(f"a file of src/ has {longest} lines")
    stated = re.search(r"\*\*Readable\.\*\* About ([\d,]+) lines of code without tests, in files of at most 400", text_of(readme))
    if not stated or abs(int(stated[1].replace(",", "")) - count) > 0.03 * count:
        failures.append(f"README.md: says about {stated and stated[1]} lines of code, and there are {count}")

    quiet = lambda row: ratio(row, RAW, "quiet-2w")
    yield "docs/guide/migrating.md", (
        f"In `benches/results/quiet-2w.md` a round trip takes {quiet(PING):.2f} times raw tokio's; one-way throughput is "
        f"{quiet(SIZES['16 B']):.2f} of it at 16 B, {quiet(SIZES['256 B']):.2f} at 256 B, {quiet(SIZES['64 KiB']):.2f} at 64 KiB. "
        f"Beside busy neighbours (`loaded-2w.md`) it is {loaded('16 B')}, {loaded('256 B')} and {loaded('64 KiB')}."
    )


# (document, heading of a section, first words of its parts that are watched; empty: all of it).
WATCHED = [("README.md", "Why", ["- **Small", "- **Fast"]), ("README.md", "Benchmarks", [])]
FIGURE = re.compile(r"\d[\d,.]*( to [\d,.]+)? (times|%|kB|MB|k|M|µs|of raw)(?!\w)|factor of \d|0\.\d\d(?![.\d])")

failures = []


def plain(text):
    return re.sub(r"\s+", " ", text)


def text_of(document):
    return plain((ROOT / document).read_text())


def check_expected():
    """Returns, per document, its text without what was to be found there."""
    rest = {}
    for document, sentence in expected():
        text = rest.setdefault(document, text_of(document))
        if plain(sentence) in text:
            rest[document] = text.replace(plain(sentence), "", 1)
            continue
        start = plain(sentence)[:25]
        at = text.find(start)
        said = text[at : at + len(sentence) + 20] if at >= 0 else "(nothing that begins so)"
        failures.append(f"{document}: its file says\n    {plain(sentence)}\nand it says\n    {said}")
    return rest


def check_watched(rest):
    for document, heading, parts in WATCHED:
        section = re.search(rf"## {heading} (.*?)(?= ## |$)", rest[document])[1]
        # Commands are no claims.
        section = re.sub(r"```.*?```", "", section)
        for part in parts or [""]:
            at = section.find(part)
            text = section[at : section.find("- **", at + 4) if part else None]
            if found := FIGURE.search(text):
                failures.append(f"{document}: a figure that is not checked, in {heading}: ...{text[max(0, found.start() - 60) : found.end() + 20]}...")


rest = check_expected()
if not failures:
    check_watched(rest)
for failure in failures:
    print(failure)
if failures:
    sys.exit(1)
print(f"figures: {sum(1 for _ in expected())} sentences and rows say what the files of benches/results say; {lines_of_code()[0]} lines of code")
