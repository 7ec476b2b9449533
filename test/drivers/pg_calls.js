// Executes calls with node-postgres, as test/t/066_drivers.pl describes them: node pg_calls.js HOST PORT USER <CALLS
'use strict';
const { Client } = require('pg');

const TYPES = {
	text: value => value,
	bytes: value => Buffer.from(value, 'hex'),
	json: value => JSON.parse(value),
	number: value => value,
	integer: value => Number(value),
	seconds: value => `${value} seconds`,
	time: value => new Date(value),
};

async function main() {
	const [host, port, user] = process.argv.slice(2);
	const client = new Client({ host, port: Number(port), user, database: 'postgres' });
	await client.connect();
	for (const line of require('fs').readFileSync(0, 'utf8').split('\n').filter(line => line)) {
		const [sql, ...parameters] = line.split('\t');
		const values = parameters.map(p => p.match(/^(\w+):(.*)$/)).map(([, kind, value]) => TYPES[kind](value));
		try {
			await client.query(sql, values);
			console.log('ok');
		} catch (error) {
			console.log(error.code, error.message);
		}
	}
	await client.end();
}

main();
