"""What the chat's help says."""

HELP = '''\
Available commands:
  /set            Change a setting of this chat
  /show           Show what the model is
  /load <model>   Talk to another model
  /save <model>   Keep this chat as a model of its own
  /clear          Forget the conversation
  /list           List the models
  /bye            Leave
  /?, /help       This help (/? set, /? show, /? shortcuts for more)

Begin a message with """ to write several lines; end the last with """.
What is pasted stays one message.
'''

HELP_SET = """\
Available commands:
  /set parameter <name> <value>   Set an option, such as temperature 0.2
  /set system <text>              Set the system message
  /set history                    Remember what is typed
  /set nohistory                  Stop remembering
  /set wordwrap                   Break lines between words
  /set nowordwrap                 Let the terminal break lines
  /set format json                Ask for JSON
  /set noformat                   Ask for plain text
  /set verbose                    Print statistics after each answer
  /set quiet                      Print none
  /set think [level]              Let the model think first (high, medium, low, max)
  /set nothink                    Let it answer at once
"""

HELP_PARAMETERS = """\
Available parameters:
  /set parameter seed <int>               The same seed, the same answer
  /set parameter num_predict <int>        At most so many tokens
  /set parameter num_ctx <int>            Tokens of context
  /set parameter temperature <float>      0: always the likeliest token
  /set parameter top_k <int>              Choose among so many tokens
  /set parameter top_p <float>            Choose among tokens of so much probability together
  /set parameter min_p <float>            Leave out tokens less likely than this times the likeliest
  /set parameter repeat_penalty <float>   Above 1: avoid what was said
  /set parameter repeat_last_n <int>      How many tokens back that looks
  /set parameter stop <text> <text> ...   Stop before any of these
"""

HELP_SHOW = """\
Available commands:
  /show info         What the model is
  /show license      Its licence
  /show modelfile    The Modelfile that makes it
  /show parameters   Options: the model's and this chat's
  /show system       The system message
  /show template     The prompt template
"""

HELP_SHORTCUTS = """\
Keys:
  Ctrl + a / Ctrl + e   Begin and end of the line
  Alt + b / Alt + f     One word back, one word on
  Ctrl + k / Ctrl + u   Cut to the end, to the begin of the line
  Ctrl + w              Cut the word before
  Ctrl + r              Search in what was typed
  Ctrl + l              Clear the screen
  Ctrl + g              Write the message in an editor (SEALIFT_EDITOR, VISUAL, EDITOR)
  Ctrl + c              Stop the answer; at the prompt, drop the line
  Ctrl + d, /bye        Leave
"""

USAGE_LOAD = "Usage:\n  /load <modelname>"
USAGE_SAVE = "Usage:\n  /save <modelname>"
