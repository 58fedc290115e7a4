"""Write one edit in one format."""

from pathlib import Path

from interp.errors import UserError
from interp.export.checkpoint import check_folder, transformer_of
from interp.export.formats import format_for
from interp.export.request import Export
from interp.models import Model
from interp.runs import write_json


def export_direction(model: Model, request: Export, format: str, out: Path) -> Path:
    """Write the edit into the folder `out`, with `export.json` telling what it is; returns the main file.

    Raises `UserError` where the direction does not fit the model, the model comes from no checkpoint folder, the
    format cannot say the edit (naming those that can), or `out` holds other files.
    """
    chosen = format_for(format, request)
    request.check(model)
    check_folder(Path(transformer_of(model).name_or_path), model.name)
    if out.exists() and any(out.iterdir()) and not (out / "export.json").is_file():
        raise UserError(
            f"{str(out)!r} holds files that are no export: choose a new or empty --out folder."
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "parity.json").unlink(missing_ok=True)  # it was about what is now overwritten
    write_json(
        out / "export.json",
        {"format": format, "request": request.describe(), "written_for": model.fingerprint},
    )
    return chosen.write(model, request, out)
