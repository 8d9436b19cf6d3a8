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

Begin a message with """ to write several lines; end the last with """.'''

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
  /set nothink                    Let it answer at once"""

HELP_SHOW = """\
Available commands:
  /show info         What the model is
  /show license      Its licence
  /show modelfile    The Modelfile that makes it
  /show parameters   Options: the model's and this chat's
  /show system       The system message
  /show template     The prompt template"""

HELP_SHORTCUTS = """\
Keys:
  Ctrl + a / Ctrl + e   Begin and end of the line
  Alt + b / Alt + f     One word back, one word on
  Ctrl + k / Ctrl + u   Cut to the end, to the begin of the line
  Ctrl + w              Cut the word before
  Ctrl + l              Clear the screen
  Ctrl + c              Stop the answer; at the prompt, drop the line
  Ctrl + d, /bye        Leave"""
