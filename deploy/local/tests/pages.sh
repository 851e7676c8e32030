# shellcheck shell=bash
# Pages with lines to be pasted, executed as they stand. Needs output.sh and sandbox.sh, an open sandbox, and grpcurl on the PATH.

# run_page PAGE: its shell blocks with calls, all in one shell that stops at the first failure, at the sandbox's addresses and
# accounts instead of the default ones. What a json block names has to be in what the shell block before it printed.
run_page() {
  local folder=$SANDBOX/page page=$1 claim claims printed
  rm -rf "$folder" && mkdir "$folder"
  awk -v folder="$folder" '
    /^```/ {
      if (kind == "sh" && text ~ /grpcurl|sign_in/) printf "exec >%s/%03d.out 2>&1\n%s", folder, ++block, text
      if (kind == "json") printf "%s", text >(folder "/" sprintf("%03d", block) ".json")
      kind = kind == "" ? substr($0, 4) : ""
      text = ""
      next
    }
    kind != "" { text = text $0 "\n" }' "$page" |
    sed -E "s#(localhost|127\.0\.0\.1):5005([0-9])#127.0.0.1:$((ROWLOCK_LOCAL_PORT_BASE / 10))\2#g; s#deploy/local/\.state#$ROWLOCK_LOCAL_STATE_DIR#g" >"$folder/lines"
  [[ -s $folder/lines ]] || fail "$page has no lines to run"
  (cd "$repo" && "$BASH" -euo pipefail "$folder/lines") || fail "$page: the lines do not work as they stand: $(tail -n 20 "$(last_of "$folder"/*.out)")"
  for claims in "$folder"/*.json; do
    [[ -e $claims ]] || continue
    printed=$(<"${claims%.json}.out")
    while read -r claim; do
      if [[ $claim == *…* ]]; then claim=${claim%%:*}:; fi
      expect "$printed" "$claim"
    done < <(grep -oE '"[A-Za-z0-9]+": ("[^"]*"|[0-9.]+|true|false)' "$claims")
  done
}

last_of() { printf '%s\n' "${!#}"; }
