#!/bin/sh
# For cron, which mails what a job prints: prints the events since its last run.
#
#   MAILTO=shop@example.com
#   0 * * * *  SEGNO_URL=http://localhost:8000 /opt/segno/examples/digest.sh 'orders.**' /var/lib/digest
#
# The folder keeps the cursor. If a run is cut, the next one prints its events, some perhaps again; none is missed.
set -eu
topic=${1:?usage: digest.sh TOPIC FOLDER [SECONDS]}
folder=${2:?usage: digest.sh TOPIC FOLDER [SECONDS]}
seconds=${3:-20}
mkdir -p "$folder"

# One run at a time: two would share the cursor.
exec 9>"$folder/lock"
flock -n 9 || { echo "the run before goes on still; nothing done" >&2; exit 1; }

# It follows until `timeout` ends it, which is 124. `tail` writes its output first and then the cursor.
ended=0
timeout "$seconds" segno tail --topic "$topic" --since start --state "$folder/cursor" >>"$folder/new" || ended=$?
test "$ended" -eq 124 || exit "$ended"

if test -s "$folder/new"; then
    echo "$(wc -l <"$folder/new") new events on $topic:"
    cat "$folder/new"
fi
rm -f "$folder/new"
