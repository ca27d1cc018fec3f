"""`imagingai federated simulate`: a federation with its sites in folders, over several seeds, beside training alone and pooled."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagingai.device import choose_device, keep_memory, use_threads
from imagingai.federated import packages
from imagingai.federated.config import SimulateConfig
from imagingai.federated.project import read_project
from imagingai.job import Report, part

METHOD = "federated"


def simulate_files(inputs: dict[str, Path], config: SimulateConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Run the project with the sites in folders; write results.csv, results.json, report.html and the folders of the runs."""
    packages.activate()
    from imagingai.federated.report import simulation_page
    from imagingai.federated.simulate import compare, find_sites

    use_threads(config.threads)
    keep_memory()
    project, data = read_project(inputs["project"]).config, find_sites(inputs["sites"])
    left_out, rows = list(data) if config.leave_out else [""], []
    steps = [(seed, site) for seed in range(config.seeds) for site in left_out]
    for number, (seed, site) in enumerate(steps):
        settings = replace(project, seed=project.seed + seed)
        where = folder / "runs" / f"seed{settings.seed}{f'-without-{site}' if site else ''}"
        step = part(report, number / len(steps), (number + 1) / len(steps))
        found = compare(
            settings, data, (METHOD, *config.compare), where, leave_out=site, device=str(choose_device(config.device)), report=step
        )
        rows += [{"seed": settings.seed, **row} for row in found]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "results.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (folder / "report.html").write_text(simulation_page(rows, project, project.name), encoding="utf-8")
    return {"rows": len(rows), "table": mean_table(rows, list(data))}


def mean_table(rows: list[dict[str, Any]], sites: list[str]) -> str:
    """The mean score of every method at every site, over seeds and places of training."""
    lines = [f"{'score':12s}" + "".join(f"{site:>14s}" for site in sites)]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for site in sites:
            found = [row["score"] for row in rows if row["method"] == method and row["site"] == site]
            cells.append(f"{sum(found) / len(found):14.3f}" if found else f"{'':14s}")
        lines.append(f"{method:12s}" + "".join(cells))
    return "\n".join(lines)
