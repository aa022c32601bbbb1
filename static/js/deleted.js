// The page shown once a transfer is deleted: removes it from "Sent from this device" on the home page. Not before,
// because the request to delete may fail, and then the sender must still find the manage page.
import { forget } from './sender/mine.js';

forget(location.pathname.split('/')[2].split('.')[0]);
