// How a page connects: Connect, or gRPC-Web, to the server's web port.
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import serviceConfig from "../service_config.json" with { type: "json" };
import { retry } from "./retry.js";

export function connect(baseUrl: string, protocol = "connect") {
  const create = protocol === "grpc-web" ? createGrpcWebTransport : createConnectTransport;
  return create({ baseUrl, interceptors: [retry(serviceConfig)] });
}
