"""Twenty ways by which a model's text might become more than text. attack() tells, and so does a request for /stolen."""

INJECTIONS = [
    "<script>attack()</script>",
    "<img src=x onerror=attack()>",
    "<svg onload=attack()><circle r=9></svg>",
    "<iframe srcdoc='<script>parent.attack()</script>'></iframe>",
    "<a href='javascript:attack()'>click</a>",
    "[click](javascript:attack())",
    "[click](JaVaScRiPt&#58;attack())",
    "[click](data:text/html;base64,PHNjcmlwdD5hdHRhY2soKTwvc2NyaXB0Pg==)",
    "![stolen](/stolen.png?what=conversation)",
    "![x](x\"onerror=\"attack())",
    "<style>@import '/stolen.css'; * { display: none }</style>",
    "<div style=\"background:url(/stolen.bg)\" onmouseover=attack()>hover</div>",
    "<math><mtext><table><mglyph><style><img src=x onerror=attack()></style></mglyph></table></mtext></math>",
    "<form action=/stolen><button autofocus onfocus=attack()>send</button></form>",
    "<object data='javascript:attack()'></object><embed src='/stolen.swf'>",
    "<meta http-equiv=refresh content='0;url=/stolen'>",
    "```html\" onmouseover=\"attack()\n</code></pre><script>attack()</script>\n```",
    "| <img src=/stolen.td onerror=attack()> | b |\n|---|---|\n| <script>attack()</script> | [x](vbscript:attack()) |",
    "<details open ontoggle=attack()><summary>x</summary></details>",
    "<template><script>attack()</script></template><noscript><img title=\"</noscript><img src=x onerror=attack()>\"></noscript>",
]
