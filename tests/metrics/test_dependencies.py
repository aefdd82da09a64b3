"""What the metrics import, and what they say when an extra is missing."""

import subprocess
import sys

import pytest
import torch
from helpers.toys import ConvNet, CountedRows

from captum_excon.metrics import REFUSED, drop_increase


@pytest.mark.slow
def test_importing_the_metrics_imports_no_optional_package() -> None:
    code = (
        "import sys, captum_excon.metrics, captum_excon.metrics.quantus; "
        "print(sorted({'quantus', 'pytorch_grad_cam', 'scipy', 'pandas'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_missing_quantus_names_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "quantus", None)
    with pytest.raises(ImportError, match=r"captum-excon\[bench\]"):
        REFUSED["quantus.ROAD"].works()
    monkeypatch.setitem(sys.modules, "quantus.helpers.enums", None)
    for name in ("classes", "_base"):
        monkeypatch.delitem(sys.modules, f"captum_excon.metrics.quantus.{name}", raising=False)
        monkeypatch.delattr(f"captum_excon.metrics.quantus.{name}", raising=False)
    with pytest.raises(ImportError, match=r"captum-excon\[bench\]"):
        from captum_excon.metrics.quantus import EBPG  # noqa: F401


def test_quantus_classes_are_exported_under_both_names() -> None:
    pytest.importorskip("quantus")
    from captum_excon.metrics import quantus, quantus_metrics

    for name in quantus.__all__:
        assert getattr(quantus, name) is getattr(quantus_metrics, name)
        assert getattr(quantus, name).__name__ == name
    assert set(quantus.__all__) <= set(dir(quantus))
    with pytest.raises(AttributeError, match="no attribute 'Selectivity'"):
        quantus.Selectivity  # noqa: B018


@pytest.mark.parametrize(("side", "rows"), [(8, 64), (224, 3), (1024, 1)])
def test_larger_images_come_in_smaller_batches(side: int, rows: int) -> None:
    model = ConvNet(in_channels=3)
    model.body = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), *model.body)
    with CountedRows(model) as counted:
        drop_increase(model, torch.rand(1, 3, side, side), torch.rand(1, side, side))
    assert counted.calls == [rows, rows]
