"""RESULTS.md from run folders: `python results/make.py runs/a runs/b` collects their figures, then writes all anew.

What a run folder's JSON files say (config, last validation, test evaluation) is kept in results/runs/<name>.json, its
pictures in results/figures/; both are committed, so that RESULTS.md can be made again without the run folders.
A run counts once it holds test.json, written by `vlae-fast evaluate RUN --json RUN/test.json`.
"""

import argparse
import dataclasses
import json
import math
import platform
import sys
from pathlib import Path

import torch
from flags import flags
from paper import PAPER, PAPER_DIFFERENCES, STAND_IN, TABLES, TEST_IMAGES, WIRINGS

from vlae_fast import TrainConfig, VLAEConfig
from vlae_fast.config import of_this_version

HERE = Path(__file__).parent


def collect(run: Path) -> None:
    """Copies the figures of one run folder. Exits where they are of neither a published data set nor the stand-in."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    content = {
        "config": json.loads((run / "config.json").read_text()),
        "last_validation": rows[-1],
        "curve": [[row["epoch"], row["train_negative_elbo_nats"], row["valid_negative_elbo_nats"]] for row in rows],
        "test": json.loads((run / "test.json").read_text()),
        "machine": {"cpu": cpu(), "torch": torch.__version__, "python": platform.python_version()},
    }
    stand_in = content["config"]["data"] == content["test"]["data"] == STAND_IN
    if not stand_in:
        check_published(run.name, content)
    target = HERE / ("stand-ins" if stand_in else "runs") / f"{run.name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n")
    if content["config"]["model"]["conditioning"] == "latent":
        for picture in ("curves.png", "samples.png", "reconstructions.png"):
            figure = HERE / "figures" / f"{run.name}-{picture}"
            figure.parent.mkdir(exist_ok=True)
            if (run / picture).exists():
                figure.write_bytes((run / picture).read_bytes())


def cpu() -> str:
    """Name of this processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def collected(name: str) -> dict:
    """Figures of a run that were copied before."""
    run: dict = json.loads((HERE / "runs" / f"{name}.json").read_text())
    check_published(name, run)
    return run


def check_published(name: str, run: dict) -> None:
    """Exits where a run learned from, or was tested on, other images than the paper's: no figure of it stands here."""
    for data in (run["config"]["data"], run["test"]["data"]):
        if data not in PAPER:
            sys.exit(f"{name}: {data}: not the published data of {', '.join(PAPER)}, not to stand beside the paper's")


def command(name: str, run: dict) -> str:
    """What trains and tests such a run again."""
    model, training = (json.loads(json.dumps(dataclasses.asdict(c))) for c in (VLAEConfig(), TrainConfig()))
    start = run["config"]["training"].get("start_from")
    given = flags("", of_this_version(run["config"])["training"], training)
    given += [] if start else flags("model.", run["config"]["model"], model)
    before = Path(start or "").name  # a run of ours, whose commands come first; shipped weights are simply there
    earlier = [command(before, collected(before))] if (HERE / "runs" / f"{before}.json").exists() else []
    data = [] if any(flag.startswith("--data ") for flag in given) else ["--data static-mnist"]
    end = run["last_validation"]["epoch"]  # a run that was ended before its step size had fallen says where
    epochs = [] if run["config"]["training"]["anneal_to"] == end else [f"--epochs {end:g}"]
    test = run["test"]
    subset = f" --subset {test['images']}" if test["images"] < TEST_IMAGES[dataset(run)] else ""
    samples = f" --samples {test['samples']}" if test["kl_nats"] else ""
    seed = f" --seed {test['seed']}" if test.get("seed") else ""
    against = f" --against runs/{Path(test['against']['run']).name}" if "against" in test else ""
    train = f"vlae-fast train --out runs/{name} {' '.join([*data, *given, *epochs])}"
    evaluate = f"vlae-fast evaluate runs/{name}{samples}{subset}{seed}{against} --json runs/{name}/test.json"
    return "\n".join([*earlier, train, evaluate])


def dataset(run: dict) -> str:
    """Name of the data, as the command line has it."""
    return run["config"]["training"]["data"]


def wiring(run: dict) -> str:
    """Short name of the decoder's wiring."""
    model = run["config"]["model"]
    after = model["wiring"]["pointwise_after"]
    return WIRINGS[model["pixelcnn_layers"], model["wiring"]["block_convs"], after and tuple(after)][:2]


def decoder(run: dict) -> str:
    """Its wiring, and whether its layers are tied."""
    if run["config"]["model"]["decoder"] == "factorized":
        return "factorized"
    return wiring(run) + (" tied" if run["config"]["model"]["tied"] else "")


def mean(value: dict | None, digits: int = 2) -> str:
    """A mean with its standard error."""
    return "" if value is None else f"{value['mean']:.{digits}f} ± {value['standard_error']:.{digits}f}"


def schedule(run: dict) -> str:
    """Epochs, and from where on the step size falls."""
    training = run["config"]["training"]
    decay = f", falling from {training['anneal_from']:g}" if training["anneal_to"] else ", constant"
    start = training.get("start_from")
    return f"{run['last_validation']['epoch']:g}{decay}{f', after {Path(start).name}' if start else ''}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


def model_of(run: dict) -> str:
    """Its row in the paper's tables."""
    model = run["config"]["model"]
    if model["conditioning"] != "latent":
        return "decoder alone"
    flows = {("af", "gaussian"): "", ("gaussian", "iaf"): "IAF ", ("gaussian", "gaussian"): "Gaussian "}
    flow = flows.get((model["prior"], model["posterior"]), "other ")
    return f"{flow}VLAE" if model["decoder"] == "pixelcnn" else f"{flow or 'AF '}VAE"


def paper_tables(runs: dict[str, dict]) -> list[str]:
    """Tables 1 to 4, our best run on all test images beside the paper's."""
    lines: list[str] = []
    for number, (data, rows) in enumerate(TABLES.items(), 1):
        best: dict[str, tuple[float, str, str]] = {}
        for name, run in runs.items():
            test = run["test"]
            if dataset(run) == data and test["images"] == TEST_IMAGES[data]:
                samples = str(test["samples"]) if test["kl_nats"] else "exact"
                best[model_of(run)] = min(
                    best.get(model_of(run), (math.inf, "", "")),
                    (test["nll_nats"]["mean"], f"{mean(test['nll_nats'])} ({name})", samples),
                )
        for path in sorted((HERE / "mixtures").glob("*.json")):
            found = json.loads(path.read_text())
            if found["data"] == data:
                rows = rows | {f"VLAE, mean of {len(found['runs'])} likelihoods": ""}
                own = f"{mean(found['nll_nats'])} ({path.stem})"
                best[[*rows][-1]] = (0.0, own, str(found["samples"]))
        lines += [f"### Table {number}: {data}", ""]
        lines += table(
            ["model", "paper", "ours", "samples"], [[m, nll, *best.get(m, ("", "", ""))[1:]] for m, nll in rows.items()]
        )
        lines.append("")
    return lines


def whole_models(runs: dict[str, dict]) -> list[str]:
    """The table of models with a code."""
    rows = []
    for name, run in sorted(runs.items(), key=lambda item: (dataset(item[1]), item[1]["test"]["nll_nats"]["mean"])):
        test, training = run["test"], run["config"]["training"]
        rows.append(
            [
                name, test["data"], model_of(run), decoder(run), training["train_on"],
                str(training["batch_size"]), schedule(run), mean(test["nll_nats"]),
                str(PAPER[dataset(run)].get(model_of(run), "")), f"{test['samples']} x {test['images']}",
                mean(test["negative_elbo_nats"]), mean(test["kl_nats"]), str(training["seed"]),
                f"{run['last_validation']['seconds'] / 60:.0f}",
            ]
        )  # fmt: skip
    return table(
        ["run", "data", "model", "decoder", "learned from", "batch", "epochs, step size", "NLL", "paper's NLL",
         "samples x images", "negative ELBO", "KL", "seed", "minutes of training"],
        rows,
    )  # fmt: skip


def mixtures() -> list[str]:
    """The table of mixtures of models, as results/mixture.py writes them down."""
    rows = []
    for path in sorted((HERE / "mixtures").glob("*.json")):
        found = json.loads(path.read_text())
        rows.append(
            [
                path.stem, found["data"], ", ".join(found["runs"]), f"{found['parameters'] / 1e6:.1f} million",
                mean(found["nll_nats"]), str(PAPER[found["data"]]["VLAE"]), f"{found['samples']} x {found['images']}",
                ", ".join(f"{nll:.2f}" for nll in found["each_nll_nats"]),
            ]
        )  # fmt: skip
    if not rows:
        return []
    head = ["mixture", "data", "of", "parameters", "NLL", "paper's NLL", "samples x images", "each alone"]
    return ["Mixtures: the mean of several models' likelihoods, a density too.", "", *table(head, rows), ""]


def samples() -> list[str]:
    """How much the number of importance samples matters, as results/samples.py writes it down."""
    rows, head = [], []
    for path in sorted((HERE / "samples").glob("*.json")):
        found = json.loads(path.read_text())
        *few, most = found["nll_nats"]
        head = ["weights", "images", f"NLL with {most} samples", *(f"more with {number}" for number in few)]
        more = (mean(found["more_nats"][number], 3) for number in few)
        rows.append([path.stem, str(found["images"]), f"{found['nll_nats'][most]:.3f}", *more])
    text = ["What fewer importance samples than the paper's make of the same codes, nats:", ""]
    return [*text, *table(head, rows), ""] if rows else []


def ablations(runs: dict[str, dict]) -> list[str]:
    """Pairs that differ in one thing, on the same images and noise: runs that were evaluated `--against` another."""
    rows = []
    for name, run in runs.items():
        test = run["test"]
        if "against" not in test:
            continue
        other = Path(test["against"]["run"]).name
        rows.append(
            [
                f"{model_of(run)} ({name})", f"{model_of(runs[other])} ({other})", test["data"], schedule(run),
                mean(test["nll_nats"]), mean(test["against"]["nll_nats"]), mean(test["nll_less_against_nats"]),
                paper_difference(run, runs[other]),
                mean(test["kl_nats"]), mean(test["against"]["kl_nats"]), f"{test['samples']} x {test['images']}",
            ]
        )  # fmt: skip
    if not rows:
        return []
    head = ["A", "B", "data", "epochs, step size", "NLL of A", "of B", "A less B", "paper's", "KL of A", "of B",
            "samples x images"]  # fmt: skip
    text = "The same budget, seed, batches and evaluated noise; differences are paired, image by image."
    return ["## Pairs", "", text, "", *table(head, rows), ""]


def sweep() -> list[str]:
    """What the code keeps, as results/sweep.py writes it down."""
    path = HERE / "sweep.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    rows = []
    for row in found["models"]:
        nats = (mean(row[key]) for key in ("kl_nats", "nll_nats", "negative_elbo_nats"))
        rows.append([row["model"], f"{row['accuracy']:.1%}", *nats])
    text = [
        f"Dynamic MNIST, {found['epochs']:g} epochs each; the decoder's window, or which pixels it is shown, is all",
        "that differs. Digits told by z: test accuracy of a linear classifier on the means of q(z|x).",
        f"NLL with {found['samples']} samples on {found['models'][0]['images']} images.",
        "",
        "    python results/sweep.py runs/sweep --data-dir data",
        "",
        "![the table as a figure](figures/sweep.png)",
        "",
    ]
    head = ["the decoder sees", "digits told by z", "KL", "NLL", "negative ELBO"]
    return ["## What the code keeps", "", *text, *table(head, rows), ""]


def stand_in() -> list[str]:
    """The whole model and its decoder alone on the stand-in for OMNIGLOT."""
    runs = {path.stem: json.loads(path.read_text()) for path in sorted((HERE / "stand-ins").glob("*.json"))}
    lines = []
    for name, run in runs.items():
        if "against" not in (test := run["test"]):
            continue
        alone, less = Path(test["against"]["run"]).name, test["nll_less_against_nats"]
        head = ["decoder alone", "VLAE", "less by", "the paper's by", "KL", "epochs, step size", "samples x images"]
        row = [f"{mean(test['against']['nll_nats'])} ({alone})", f"{mean(test['nll_nats'])} ({name})"]
        theirs = PAPER["omniglot"]["decoder alone"] - PAPER["omniglot"]["VLAE"]
        row += [mean(less | {"mean": -less["mean"]}), f"{theirs:.2f}"]
        row += [mean(test["kl_nats"]), schedule(run), f"{test['samples']} x {test['images']}"]
        lines += [*table(head, [row]), "", *picture_lines(name), "```", command(alone, runs[alone]), command(name, run)]
    said = "The published images were not at hand; these are the same drawings, made into 28x28 pixels anew: only"
    more = "what the code brings may be compared with the paper, and that with care."
    return ["## OMNIGLOT drawings, a stand-in", "", said, more, "", *lines, "```", ""] if lines else []


def paper_difference(run: dict, other: dict) -> str:
    """Of the test figures of two models on the same data, where the paper has both."""
    names = model_of(run), model_of(other)
    if said := PAPER_DIFFERENCES.get((dataset(run), *names)):
        return said
    found = [PAPER[dataset(run)].get(name) for name in names]
    return "" if None in found else f"{found[0] - found[1]:.2f}"


def pictures(runs: dict[str, dict]) -> list[str]:
    """What the models with a code draw and keep."""
    lines: list[str] = []
    for name in runs:
        if not (HERE / "figures" / f"{name}-samples.png").exists():  # a stretch of a longer training
            continue
        learned = runs[name]["config"]["training"]["train_on"] != "train"
        note = " (the validation images are among those learned from)" if learned else ""
        lines += [f"### {name}", "", f"Originals, each beside its lossy reconstruction; samples; training{note}.", ""]
        lines += picture_lines(name)
    return lines


def picture_lines(name: str) -> list[str]:
    """Those of a run."""
    kinds = ("reconstructions", "samples", "curves")
    return [*(f"![{kind} of {name}](figures/{name}-{kind}.png)" for kind in kinds), ""]


def decoders_alone(runs: dict[str, dict]) -> list[str]:
    """The section on the PixelCNN without a code."""
    lines = [
        "## Which decoder is the paper's",
        "",
        "The PixelCNN alone, exact NLL (`--model.conditioning map`: with a learned constant map, as a constant code",
        "would give it; `none`: without). Paper: 87.55 on dynamic MNIST, 89.26 on Caltech-101.",
        "",
        *(f"- {text}" for text in WIRINGS.values()),
        "",
        "Each also has four 1x1 residual blocks. Tied: one weight for all mask-B layers.",
        "",
    ]
    rows = []
    for run in sorted(runs.values(), key=lambda run: (dataset(run), run["test"]["nll_nats"]["mean"])):
        test, model, training = run["test"], run["config"]["model"], run["config"]["training"]
        rows.append(
            [
                test["data"], wiring(run), model["conditioning"], "yes" if model["tied"] else "no",
                training["train_on"], str(training["batch_size"]), schedule(run), mean(test["nll_nats"]),
                f"{test['nll_nats']['mean'] - PAPER[dataset(run)]['decoder alone']:+.2f}",
                f"{run['last_validation']['seconds'] / 60:.0f}",
            ]
        )  # fmt: skip
    return lines + table(
        ["data", "decoder", "conditioning", "tied", "learned from", "batch", "epochs, step size", "NLL",
         "less the paper's", "minutes of training"],
        rows,
    )  # fmt: skip


def report(runs: dict[str, dict]) -> str:
    """RESULTS.md."""
    lines = [
        "# Results",
        "",
        "Test figures in nats an image, lower is better, ± one standard error over the test images. The paper's: Chen",
        "et al. 2017, tables 1 to 4. This file is written by `results/make.py` from `results/runs/*.json`.",
        "",
        "## The paper's tables",
        "",
        "On all test images; importance sampled, with so many samples an image as stated (the paper: 4,096), of which",
        "fewer make it larger. What is empty was not run, or is another's model.",
        "",
        *paper_tables(runs),
        "## The whole model",
        "",
    ]
    whole = {name: run for name, run in runs.items() if run["test"]["kl_nats"]}
    alone = {name: run for name, run in runs.items() if name not in whole}
    lines += whole_models(whole)
    missing = ", ".join(sorted(set(PAPER) - {dataset(run) for run in whole.values()}))
    lines += [
        "",
        f"The paper's KL on static MNIST is 13.3 nats. Not run: {missing}.",
        "",
        "Caltech-101: four of the 101 classes (airplanes, motorbikes, two of faces) make up 46 % of the validation and",
        "45 % of the test images, but 10 % of the training images. So to learn from the validation images too, as the",
        "paper does, brings far more there than their number says.",
        "",
    ]
    lines += mixtures() + samples() + ablations(whole) + stand_in() + sweep() + pictures(whole) + decoders_alone(alone)
    machines = sorted({f"{r['machine']['cpu']}, torch {r['machine']['torch']}" for r in runs.values()})
    where = f"Machine: {'; '.join(machines)}; one core a training, at times shared with others."
    lines += ["", "## Again", "", where, ""]
    for name, run in runs.items():
        lines += [f"{name}:", "", "```", command(name, run), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Collects what is named, then writes RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders")
    for run in parser.parse_args().runs:
        collect(run)
    runs = {path.stem: collected(path.stem) for path in sorted((HERE / "runs").glob("*.json"))}
    (HERE / "RESULTS.md").write_text(report(runs))
    print(f"{HERE / 'RESULTS.md'}: {len(runs)} runs")


if __name__ == "__main__":
    main()
