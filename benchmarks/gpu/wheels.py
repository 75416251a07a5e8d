# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Second half of on_gpu_wheels.sh: make the wheels in a folder small, and check that nothing is missing."""

import email
import re
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from pip._vendor.packaging.markers import default_environment
from pip._vendor.packaging.requirements import Requirement

from .environment import canonical, requirements


MOST_MIB = 40
CUDA = "130"  # of the image; bitsandbytes brings a library for each release of CUDA, and for other makers' GPUs
OTHER_LIBRARY = re.compile(rf"bitsandbytes/libbitsandbytes_(?!cpu|cuda{CUDA}\b).*\.so")
IMAGE = {
    "python_version": "3.12",
    "python_full_version": "3.12.3",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "extra": "",
}


def slim(wheel):
    """Rewrite a wheel of bitsandbytes without the libraries for other GPUs; the build tag in its new name says so."""
    name, version, *tags = wheel.name.split("-")
    target = wheel.with_name("-".join([name, version, f"1cuda{CUDA}", *tags]))
    with ZipFile(wheel) as source, ZipFile(target, "w", ZIP_DEFLATED) as slimmed:
        for item in source.infolist():
            data = source.read(item)
            if OTHER_LIBRARY.fullmatch(item.filename):
                continue
            if item.filename.endswith(".dist-info/RECORD"):
                lines = data.decode().splitlines(keepends=True)
                data = "".join(line for line in lines if not OTHER_LIBRARY.match(line.split(",")[0]))
            slimmed.writestr(item, data)
    wheel.unlink()


def metadata_of(wheel):
    with ZipFile(wheel) as opened:
        file = next(name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(opened.read(file))


def image_packages():
    """Name to version, which may be None."""
    lines = Path(__file__).with_name("image_packages.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("==")[::2] for line in lines if line and not line.startswith("#")]
    return {canonical(name): version or None for name, version in pairs}


def complaints(wheels):
    """What is wrong with these wheels, as lines: two of one package, too many MiB, or something that is missing."""
    found, there, wanted = [], image_packages(), [("setup.py", text) for text in requirements()]
    names = []
    for wheel in wheels:
        metadata = metadata_of(wheel)
        names.append(canonical(metadata["Name"]))
        there[names[-1]] = metadata["Version"]
        wanted += [(wheel.name, text) for text in metadata.get_all("Requires-Dist", [])]
    found += [f"{name} is there twice" for name in sorted(set(names)) if names.count(name) > 1]
    size = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    if size > MOST_MIB:
        found.append(f"{size:.1f} MiB are more than {MOST_MIB}")
    for who, text in wanted:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({**default_environment(), **IMAGE}):
            continue
        name = canonical(requirement.name)
        if name not in there:
            found.append(f"{who} needs {text}, which is in no wheel and not in the image")
        elif there[name] and not requirement.specifier.contains(there[name], prereleases=True):
            found.append(f"{who} needs {text}, not {there[name]}")
    return found


def main():
    folder = Path(sys.argv[1])
    for wheel in folder.glob("bitsandbytes-*-py3-*.whl"):
        slim(wheel)
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.name}")
    print(f"{sum(wheel.stat().st_size for wheel in wheels) / 2**20:7.2f} MiB  in all")
    if found := complaints(wheels):
        sys.exit("\n".join(f"on_gpu_wheels.sh: error: {line}" for line in found))


if __name__ == "__main__":
    main()
