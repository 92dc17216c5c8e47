// Stands in for the npm package "postgres", which is installed beside it as "postgres-js".
//
// @supabase/lite 0.10.0 passes the json and jsonb arguments of functions as JSON text. postgres.js serialises every
// value of those types, text too, so a function would receive a jsonb string holding JSON instead of the object.
// Here text is taken for JSON already and passed on as it is; anything else is serialised as before.
import connect from "postgres-js";

const toText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

const jsonType = (oid, alsoReads = []) => ({
  to: oid,
  from: [oid, ...alsoReads],
  serialize: toText,
  parse: JSON.parse,
});

const JSON_OID = 114;
const JSONB_OID = 3802;
const types = { json: jsonType(JSON_OID, [JSONB_OID]), jsonb: jsonType(JSONB_OID) };

export default function postgres(url, options = {}) {
  return connect(url, { ...options, types: { ...options.types, ...types } });
}
