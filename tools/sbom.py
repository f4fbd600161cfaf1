"""The bill of materials in the wheel: .dist-info/sboms/fastact.cdx.json (PEP 770, CycloneDX 1.6).

It lists what is compiled into the extension modules besides fastact: the support code that Cython
writes into each module, and NumPy's headers. Shared libraries that auditwheel adds later (libgomp)
come with a document of auditwheel's own. No time and no serial number: the same sources give the
same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

LICENSES = {"fastact": "BSD-3-Clause", "cython": "Apache-2.0", "numpy": "BSD-3-Clause"}
PARTS = {
    "cython": "Support code that Cython writes into the modules it compiles",
    "numpy": "Headers of NumPy's C interface, inline functions included",
}


def component(name: str, version: str, kind: str, description: str | None = None) -> dict:
    purl = f"pkg:pypi/{name}@{version}"
    entry = {
        "type": kind,
        "bom-ref": purl,
        "name": name,
        "version": version,
        "licenses": [{"license": {"id": LICENSES[name]}}],
        "purl": purl,
    }
    return entry if description is None else {**entry, "description": description}


def bill(version: str, compiled_in: dict[str, str]) -> dict:
    """The document, for fastact's version and {name: version} of what is compiled in."""
    own = component("fastact", version, "library")
    parts = [component(name, v, "library", PARTS[name]) for name, v in sorted(compiled_in.items())]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": parts,
        "dependencies": [
            {"ref": own["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }


def write_sbom(path: Path, version: str, compiled_in: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bill(version, compiled_in), indent=1) + "\n")
