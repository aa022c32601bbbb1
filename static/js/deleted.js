// The page of a transfer that was deleted: from now on the first page no longer leads to it. It is forgotten
// only here, because a request to delete it may fail, and then its manage page has to be found again.
import { forget } from './sender/mine.js';

forget(location.pathname.split('/')[2].split('.')[0]);
