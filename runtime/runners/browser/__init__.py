"""The browser runner: serves a page that measures a bundle with onnxruntime-web.

The page (index.html, page.mjs, page.css) claims the run, shows how far it is and posts the result;
runner.mjs, in a worker, measures. Both do in JavaScript what agent/__main__.py does in Python.
"""

from edgeseed.runtime.runners.browser.run import measure_in_browser
from edgeseed.runtime.runners.browser.server import Listening, Serving, Timeouts

__all__ = ["Listening", "Serving", "Timeouts", "measure_in_browser"]
