// The conformance program for browsers, in the page that browser.py opens.
import { connect } from "./browser.js";
import { runAll } from "./scenario.js";

const query = new URLSearchParams(location.search);
const suite = await (await fetch("/suite")).text();
const lines: string[] = [];
await runAll(connect(query.get("server")!, query.get("protocol")!), suite, (line) => lines.push(line));
await fetch("/printed", { method: "POST", body: lines.join("\n") });
