// The conformance program for Node: node build/conformance.js ADDRESS SUITE.
import { readFileSync } from "node:fs";
import { connect } from "./node.js";
import { runAll } from "./scenario.js";

await runAll(connect(process.argv[2]), readFileSync(process.argv[3], "utf8"), console.log);
