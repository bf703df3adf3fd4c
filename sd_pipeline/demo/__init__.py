"""The web page: generate, change, repaint and extend pictures in a browser. It needs Gradio, the extra `demo`."""

import os

# Gradio reports to its makers unless it is told not to, and reads this when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
