// How Node connects: gRPC over HTTP/2.
import { createGrpcTransport } from "@connectrpc/connect-node";
import { readFileSync } from "node:fs";
import { retry } from "./retry.js";

export const connect = (address: string) =>
  createGrpcTransport({
    baseUrl: `http://${address}`,
    interceptors: [retry(JSON.parse(readFileSync("../service_config.json", "utf8")))],
  });
