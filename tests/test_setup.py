"""bin/setup.py: what it does side by side, and what becomes of a failure."""

import importlib.util
import threading
from types import ModuleType

import pytest


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with steps that do nothing."""
    spec = importlib.util.spec_from_file_location("setup_script", "bin/setup.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    monkeypatch.setattr(loaded, "STEPS", dict.fromkeys(loaded.STEPS, lambda: None))
    return loaded


def test_the_browser_is_installed_while_packages_are_fetched(setup: ModuleType) -> None:
    begun = threading.Event()
    waited: list[bool] = []
    setup.STEPS |= {"chromium": begun.set, "python": lambda: waited.append(begun.wait(10))}
    assert setup.main(["python", "node", "chromium"]) == 0
    assert waited == [True]


@pytest.mark.parametrize("step", ["python", "node", "chromium"])
def test_a_step_that_fails_says_why(
    setup: ModuleType, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise setup.SetupError("No network.")

    setup.STEPS[step] = fail
    assert setup.main(["python", "node", "chromium"]) == 1
    assert "No network." in capsys.readouterr().err
