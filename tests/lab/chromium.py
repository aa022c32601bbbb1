"""How Chromium is started (any that is on the PATH), without features that tests do not need."""

import shutil

# From Playwright's own list, what matters here: if the flag is repeated, only the last one counts.
_UNWANTED = [
    "AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable", "LensOverlay", "MediaRouter", "PaintHolding",
    "ThirdPartyStoragePartitioning", "AvoidCorsURLLoaderRestartOnRedirect", "OptimizationHints",
    "NetworkTimeServiceQuerying", "AimEnabled", "PreconnectToSearch",
    # For each profile Chromium loads its address bar's page, even though there is no window here;
    # that takes three times the CPU time of opening our own page.
    "WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup",
    # A process kept ready for the next page: with a profile for each test, nobody uses it.
    "SpareRendererForSitePerProcess",
]  # fmt: skip
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    f"--disable-features={','.join(_UNWANTED)}",
]  # fmt: skip


def path() -> str:
    """The path of Chromium; raises RuntimeError if it is missing."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise RuntimeError("Chromium is missing: apt-get install chromium")
