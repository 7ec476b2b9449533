// Says that everything is ready, and returns when the program is told to begin.
'use strict';

function told() {
	console.log('ready');
	return new Promise(resolve => process.stdin.once('data', resolve));
}

module.exports = { told };
