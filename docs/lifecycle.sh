#!/usr/bin/env bash
# Makes lifecycle.svg of lifecycle.dot (needs graphviz), with colours for light and for dark readers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
dot -Tsvg lifecycle.dot | python3 -c '
import re, sys
svg = sys.stdin.read()
svg = svg[svg.index("<svg"):]
svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
svg = re.sub(r"<title>.*?</title>\s*", "", svg)
svg = re.sub(r" (fill|stroke)=\"(black|lightgrey|none|transparent)\"", "", svg)
style = """<title>The life of a connection</title>
<style>
  svg { background: #ffffff }
  text { fill: #1c2430 }
  path { fill: none; stroke: #5b6675 }
  polygon { fill: #5b6675; stroke: #5b6675 }
  g.step path { fill: #f1f3f6 } g.limit path { fill: #fdf0d5 } g.state path { fill: #d9e8fb } g.hook path { fill: #ddf3e1 }
  @media (prefers-color-scheme: dark) {
    svg { background: #12161c }
    text { fill: #e8ecf1 }
    path { stroke: #98a3b3 }
    polygon { fill: #98a3b3; stroke: #98a3b3 }
    g.step path { fill: #232a34 } g.limit path { fill: #4a3b17 } g.state path { fill: #1d3a5f } g.hook path { fill: #1d4428 }
  }
</style>"""
head, rest = svg.split(">", 1)
print(head + ">\n" + style + rest, end="")
' >lifecycle.svg
