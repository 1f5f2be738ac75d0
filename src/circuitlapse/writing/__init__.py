"""Have a language model write items: any server that speaks OpenAI's chat completions.

What it sends is data to be read and judged, never an instruction, and none of it goes back into a
later request.
"""

from circuitlapse.writing.server import Server
from circuitlapse.writing.write import Listener, Progress, Written, write_items

__all__ = ["Listener", "Progress", "Server", "Written", "write_items"]
