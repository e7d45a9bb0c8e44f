"""`snnfast web`: train, evaluate, convert, diagnose and compare in a browser. What runs are the commands of `snnfast`, in processes of their own.

workspace.py   the folder that holds everything, and what may be reached in it
records.py     every run, in a file of SQLite
jobs.py        one queue for each device, which starts, stops and finds again the processes
child.py       what stands between the server and a command
commands.py    what was filled in, as a command line
curves.py      what a run has reached so far
passwords.py   who may use it from other machines
guard.py       which pages may speak to a server without passwords
pages/         what is seen, with Gradio
"""
