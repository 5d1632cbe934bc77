/* SPDX-License-Identifier: MIT */

/*
 * What is written inside options: fields, formats, expressions, templates, functions. For `tocsin help` and
 * tocsin.conf(5). Indented lines are examples; no line is longer than a terminal.
 */

#include "cli/cli.h"

const struct cli_topic cli_topics[] = {
    { "fields", "what a message has, and how it is named",
      "A name is looked for in this order:\n"
      "\n"
      "  topic payload qos retain link   of the message\n"
      "  route title text                of the route, once they are made\n"
      "  severity priority               the same\n"
      "  _dtepoch _dtiso                 arrival: seconds since 1970; UTC\n"
      "  _ltiso _dthhmm _dthhmmss        arrival in local time; 11:59; 11:59:35\n"
      "  json                            the whole decoded payload\n"
      "  room, if the topic has {room}   named levels of the topic filter\n"
      "  what `set` has computed so far\n"
      "  the members of the payload, if it is a JSON object; else value\n"
      "\n"
      "A payload that is a number, a text or a JSON array is the field value. A\n"
      "payload can't replace what stands further up: its own topic is json.topic.\n"
      "\n"
      "  battery.volts                   into an object\n"
      "  sensors[0].name sensors[-1]     into an array: from 0, or from its end\n"
      "  data[\"room temperature\"]        a name that has blanks or dots\n"
      "\n"
      "`tocsin explain TOPIC PAYLOAD` shows the fields that a message has." },
    { "formats", "texts with {fields}: title, format, and options of targets",
      "  {room}                  the field\n"
      "  {celsius:.1f}           laid out as by Python's str.format: 31.5\n"
      "  {name:>10} {count:05d}  width, alignment, zeros\n"
      "  {sensors!j}             as JSON\n"
      "  {unit?none}             none if there is no such field; {celsius:.1f?none}\n"
      "  {{ }}                   the braces themselves\n"
      "\n"
      "A field that is not there, and has no default, stays as it is written, is\n"
      "counted and logged: an alarm with a gap beats no alarm." },
    { "expressions", "when, set, severity and priority: Lua 5.4",
      "  celsius > 30 and room ~= \"attic\"\n"
      "  value > 35 and 'critical' or 'warning'\n"
      "  temp.celsius * 9 / 5 + 32\n"
      "\n"
      "A name is a field, nil if there is none. To compare nil with a number, to\n"
      "compute with it, or to look into it is an error: the route ends for this\n"
      "message, which is counted and logged. Write (celsius or 0) > 30 for a default.\n"
      "Not equal is ~=, and arrays count from 0 as in JSON. Beside Lua's operators\n"
      "there are math, string without patterns, tostring, tonumber, type, pairs,\n"
      "ipairs, select and pcall (a payload's own type is json.type), and\n"
      "\n"
      "  contains(s, part) starts_with(s, part) ends_with(s, part)\n"
      "  glob(s, pattern) regex(s, pattern)\n"
      "  round(x, digits) tojson(value) split(s, separator)\n"
      "  trim(s) replace(s, from, to)" },
    { "templates", "files for template and html_template",
      "  {{ celsius | round(1) }}            an expression, and filters\n"
      "  {% if EXPRESSION %} {% elif EXPRESSION %} {% else %} {% endif %}\n"
      "  {% for x in EXPRESSION %} {% else %} {% endfor %}\n"
      "  {% for key, value in EXPRESSION %} {% endfor %}\n"
      "  {# a comment #}\n"
      "\n"
      "The file's path begins at the folder of the configuration. Filters: upper\n"
      "lower trim round(digits) default(text) join(separator) tojson replace(from,\n"
      "to) escape safe. Inside a loop there are loop.index (from 1), loop.index0,\n"
      "loop.first, loop.last and loop.length. A minus sign inside the braces, {%- or\n"
      "-%}, takes away the blanks on that side; a line with nothing but a statement\n"
      "or a comment on it leaves no trace. An if that looks into a field that is not\n"
      "there is false; if it fails in another way that is counted and logged, too.\n"
      "For HTML, values are escaped unless the filter safe says otherwise." },
    { "functions", "Lua files of your own, for expressions and routes",
      "  router = { functions = [ \"/etc/tocsin/site.lua\" ]; };\n"
      "  routes = ( { topic = \"sensors/#\"; function = \"tidy\"; ... } );\n"
      "\n"
      "and in the file:\n"
      "\n"
      "  function fahrenheit(c) return c * 9 / 5 + 32 end\n"
      "  function tidy(message)\n"
      "      if message.battery == nil then return false end\n"
      "      return { low = message.battery.volts < 2.5 }\n"
      "  end\n"
      "\n"
      "Expressions may call any of them. The function of a route gets the message as\n"
      "a table of its fields: the table that it returns adds fields, false ends the\n"
      "route. Globals cannot be set while messages are routed; what is to be kept\n"
      "goes into a local of the file." },
    { .name = NULL },
};
