"""The table of targets: a row for each, with its figure, or the reason why there is none."""

import dataclasses
import json


@dataclasses.dataclass
class Row:
    """A target and what came of it."""

    title: str
    least: str
    aim: str
    figure: str = ""
    missing: str = ""


def read(path):
    """What a step found, or that it did not run."""
    return json.loads(path.read_text()) if path.exists() else {"missing": "this step did not run"}


def get(found, *path):
    """What lies at a path, or `KeyError` with the reason that stands where the path ends."""
    for name in path:
        if isinstance(found, dict) and "missing" in found and name not in found:
            raise KeyError(found["missing"])
        if not isinstance(found, dict) or found.get(name) is None:
            raise KeyError(f"no `{name}` was found")
        found = found[name]
    return found


def percent(x):
    return f"{x:.1f}%"


def ratio(found):
    if "ratio" not in found:
        raise KeyError(str(found.get("missing") or found.get("peer_setting")))
    a, b = get(found, "air", "median"), get(found, "peer", "median")
    return f"{found['ratio']:.2f}× ({a:.1f} against {b:.1f} tok/s)"


def of_drive(found):
    disk, probed = get(found, "decode", "achieved_gbps", "disk"), get(found, "decode", "roofline", "disk_gbps")
    return f"{percent(100 * disk / probed)} ({disk:.2f} of {probed:.2f} GB/s)"


def of_link(found):
    report = get(found, "prefill")
    reached, link = get(report, "achieved_gbps", "prefill_pcie"), get(report, "limits", "gpu", "h2d_gbps")
    share = f"{percent(100 * reached / link)} of the link ({reached:.1f} of {link:.1f} GB/s)"
    return f"{share}; that of compute is not measured"


def of_copy(found):
    copy = get(found, "report", "limits", "gpu", "copy_gbps")
    return f"{percent(100 * get(found, 'gbps') / copy)} ({found['gbps']:.0f} of {copy:.0f} GB/s)"


def errors(found):
    worst = max(get(found, "nmse").items(), key=lambda e: e[1])
    return f"at most {worst[1]:.1e} ({worst[0]})"


def tested(found):
    return f"{get(found, 'run')} run, {get(found, 'failed')} failed, {get(found, 'skipped')} skipped"


def sanitized(found):
    tools = ["memcheck", "racecheck", "synccheck", "initcheck"]
    if not any(get(found, t) == "no error" for t in tools):
        raise KeyError(found[tools[0]])
    return "; ".join(f"{t}: {found[t]}" for t in tools)


def chosen(found):
    return f"{get(found, 'argmax_differ')} of {get(found, 'argmax_rows')} differ"


def rows(found):
    """All of them: title, at least, aim, and how the figure is made."""
    roofline = lambda q, name: percent(get(found, "decode", q, "report", "roofline", name))
    table = [("the tests on the device", "0 failed", "", lambda: tested(found["tests"]))]
    table += [("compute-sanitizer, a subset", "no error", "", lambda: sanitized(found["sanitizer"]))]
    for q in ("Q8_0", "Q4_K_M"):
        table += [(f"decode, {q}: share of T_limit", "75%", "88%", lambda q=q: roofline(q, "percent"))]
    for q, least, aim in (("Q8_0", "62%", "78%"), ("Q4_K_M", "55%", "68%")):
        title = f"decode, {q}: share of raw copy bandwidth"
        table += [(title, least, aim, lambda q=q: roofline(q, "percent_of_copy"))]
    for step, least, aim in (("decode", "1.1×", "1.4×"), ("prefill", "1.5×", "3×")):
        for q in ("Q8_0", "Q4_K_M"):
            figure = lambda s=step, q=q: ratio(get(found, s, q))
            table += [(f"{step}, {q}, against llama.cpp", least, aim, figure)]
    return table + [
        ("flash decode at depth 32k: share of bandwidth on KV", "70%", "85%", lambda: of_copy(found["deep"])),
        ("a third in VRAM, rest in RAM: decode against llama.cpp", "1.0×", "1.3×",
         lambda: ratio(get(found, "carried", "decode"))),
        ("the same, carried: prefill, share of H2D", "90%", "97%", lambda: of_link(found["carried"])),
        ("a third in VRAM, rest from the drive: share of the drive", "92%", "97%", lambda: of_drive(found["drive"])),
        ("logits against the interpreter, NMSE per format", "1e-3", "", lambda: errors(found["logits"])),
        ("the demo model's likeliest tokens, margin over 1%", "0 differ", "", lambda: chosen(found["logits"])),
    ]


def filled(title, least, aim, figure):
    try:
        return Row(title, least, aim, figure())
    except KeyError as why:
        return Row(title, least, aim, "", str(why.args[0]))


def markdown(found, rehearse):
    """The table, and its rows."""
    done = [filled(*row) for row in rows(found)]
    lines = ["A rehearsal without a GPU: no figure here is one.", ""] if rehearse else []
    devices = found["machine"].get("devices", {})
    for card in devices.get("gpus", []):
        lines += [f"{card['name']}, driver {devices['driver']}, air {found['machine'].get('commit')}", ""]
    if "built" in found["peer"]:
        lines += [f"The peer: {found['peer']['built']}.", ""]
    gpu = found["decode"].get("Q8_0", {}).get("report", {}).get("limits", {}).get("gpu")
    if gpu:
        copies = f"copies {gpu['copy_gbps']:.0f} GB/s (read and written)"
        link = f"{gpu['h2d_gbps']:.1f} GB/s to the GPU"
        rest = f"{gpu['d2h_gbps']:.1f} from it, an empty kernel {gpu['empty_kernel_us']:.2f} µs"
        lines += [f"Limits: {copies}, link {link}, {rest}.", ""]
    lines += ["| | at least | aim | measured |", "|---|---|---|---|"]
    measured = lambda r: r.figure or f"not measured: {r.missing}"
    lines += [f"| {r.title} | {r.least} | {r.aim} | {measured(r)} |" for r in done]
    return "\n".join(lines) + "\n", done
